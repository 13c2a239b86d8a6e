"""What pretraining needs of one kind of data, one file each. `modality=X` selects the file X.py.

A file defines `Config`, the schema of its configuration, and `Modality`. Nothing that takes long to import is imported
at the top level, because the command line reads the schema.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from data import modalities
from pretrain.config import Pretrain

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pretrain.model.base import BaseEncoder


class Modality:
    """Data, encoder, validation and outputs of a modality, for one run; the methods are called in this order."""

    def __init__(self, config: Pretrain, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.shared = modalities.load_modality(config.modality)

    def validate_config(self) -> None:
        """Raise ConfigError for settings that cannot be combined, before any data is prepared."""

    def prepare(self) -> dict[str, str]:
        """Build the training data that does not exist yet, on one process at a time; return its fingerprints by name.

        Raise ConfigError or DataError for the user's mistakes.
        """
        raise NotImplementedError

    def build_encoder(self) -> BaseEncoder:
        """Return the initial encoder."""
        raise NotImplementedError

    def build_dataset(self, objective_file: ModuleType) -> object:
        """Return the training set: its length, `collate(indices, generators)` and `warning()`."""
        raise NotImplementedError

    def dataset_at(self, step: int) -> tuple[object, int]:
        """Return (the data set of a step, how many times more rows its batch has) after `build_dataset`."""
        raise NotImplementedError

    def build_validator(self, with_head: bool) -> Callable[[BaseEncoder], dict[str, float]]:
        """Return a function that evaluates an encoder on held-out data. with_head: whether its head is trained."""
        raise NotImplementedError

    def build_record(self, encoder: BaseEncoder, with_head: bool) -> dict:
        """Return what the encoder's record.json holds of its data."""
        return {}

    def record_outputs(self, encoder: BaseEncoder) -> dict | None:
        """Return embeddings of a few held-out inputs, to verify copies of the encoder; None: not supported."""
        return None

    def save_encoder(self, encoder: BaseEncoder, folder: Path, record: dict, card: str, with_head: bool) -> None:
        """Write the encoder folder atomically."""
        raise NotImplementedError


def load_modality(config: Pretrain, accelerator: Accelerator) -> Modality:
    """Return the configured modality."""
    return importlib.import_module(f"pretrain.modalities.{config.modality}").Modality(config, accelerator)
