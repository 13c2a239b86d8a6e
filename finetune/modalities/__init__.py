"""What fine-tuning needs of one kind of data, one file each. `task.modality=X` selects the file X.py.

A file defines `Config`, the schema of its configuration, and `Modality`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data import modalities
from data.tasks.splits import Example
from finetune.config import Finetune

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from engine.models.embed import Inputs
    from finetune.model.network import Network


class Modality:
    """Data sets and networks of a modality, for one configuration."""

    linear_baseline: ClassVar[tuple[str, str]] = ("", "")
    """Key in metrics.json, and name, of the features of the linear baseline; empty: there is none."""

    def __init__(self, config: Finetune):
        self.config, self.shared = config, modalities.load_modality(config.task.modality)
        self.problem_type = config.task.load_problem_type()

    def validate_config(self) -> None:
        """Raise ConfigError for settings that this modality does not support."""

    def build_dataset(
        self, examples: list[Example], folder: Path, description: str, label_names: list[str] | None = None
    ) -> Inputs:
        """Return the inputs of the encoder in `folder`, with `labels` and `get_batch` if there are label names.

        Raise DataError for an example that cannot be read. description: of the examples, for errors.
        """
        raise NotImplementedError

    def get_augmentation(self) -> Callable | None:
        """Return the augmentation that `get_batch` of a data set takes, or None."""
        return None

    def build_network(self, folder: Path, label_names: list[str], random_init: bool) -> Network:
        """Return the encoder in `folder` with a new last layer. Raise DataError if it cannot be loaded."""
        raise NotImplementedError

    def fit_features(self, examples: list[Example]) -> Callable[[list[Example]], Any]:
        """Fit the features of the linear baseline; return a function from examples to features, (examples, width)."""
        raise NotImplementedError

    def embed(self, examples: list[Example], folder: Path, accelerator: Accelerator) -> np.ndarray:
        """Return embeddings of the encoder without fine-tuning, float32 (examples, width)."""
        raise NotImplementedError

    def check_contamination(
        self, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
    ) -> tuple[dict, list[int]]:
        """Return counts of test rows that also occur elsewhere, for a report, and the indices of those to measure."""
        raise NotImplementedError


def load_modality(config: Finetune) -> Modality:
    """Return the modality of the configured task."""
    return importlib.import_module(f"finetune.modalities.{config.task.modality}").Modality(config)
