"""What pretraining needs of one kind of data, one file each. `modality=X` selects the file X.py.

A file defines `Config`, the schema of its configuration, and `Modality`. Nothing that takes long to import is imported
at the top level, because the command line reads the schema.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from data import modalities
from engine.errors import ConfigError
from pretrain.config import Pretrain

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from pretrain.model.base import BaseEncoder
    from pretrain.objective import BaseObjective, Gallery, HeldOut


class Modality:
    """Data, encoder, validation and outputs of a modality, for one run.

    A file's class adds these methods, called in this order:

    prepare() -> {name: fingerprint}    build the training data that does not exist yet, on one process at a time
    build_encoder() -> BaseEncoder
    build_dataset(objective_file)       training set: its length, `collate(indices, generators)` and `warning()`
    build_validator(with_head)          function from the encoder to metrics; with_head: whether its head is trained
    dataset_at(step)                    (the training set of a step, how many times more rows its batch has)
    save_encoder(encoder, folder, record, card, with_head)    write the encoder folder atomically

    They raise ConfigError or DataError for the user's mistakes.
    """

    held_out: Any
    """Held-out data, once it is prepared."""
    tokenizer_folder: Path | None = None

    def __init__(self, config: Pretrain, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.shared = modalities.load_modality(config.modality)

    def validate_config(self) -> None:
        """Raise ConfigError for settings that cannot be combined, before any data is prepared."""

    def resolve_objective(self) -> Pretrain:
        """Return the configuration with the objective to train, after `prepare`.

        Raises ConfigError if it is left to the modality, which chooses none.
        """
        if self.config.objective.name == "auto":
            raise ConfigError(f"objective.name: auto chooses none for modality={self.config.modality}; name one")
        return self.config

    def find_dataset(self, objective_file: ModuleType) -> type | None:
        """Return the objective's data set for this modality; None: two views of an input, which each modality makes.

        Raises ConfigError for an objective of other modalities.
        """
        datasets = list_datasets(objective_file)
        if datasets is not None and self.config.modality not in datasets:
            name = self.config.objective.name
            raise ConfigError(f"objective.name: {name} is for modality={' or '.join(datasets)}")
        return datasets and datasets[self.config.modality]

    def measure_quality(self, encoder: BaseEncoder) -> tuple[dict[str, float], Tensor | None]:
        """Return (metrics to compare before and after training, embeddings of held-out inputs); None: not supported."""
        return {}, None

    def keeps_init(self, quality: dict[str, dict[str, float]]) -> str:
        """Return why the initial weights are saved instead of the trained ones; usually an empty string."""
        return ""

    def build_record(self, encoder: BaseEncoder, with_head: bool) -> dict:
        """Return what the encoder's record.json holds of its data."""
        return {}

    def draw_gallery(self, encoder: BaseEncoder, objective: BaseObjective) -> Gallery:
        """Return sections of the run's report that show data, on the main process."""
        return objective.draw_gallery(self.held_out_data())

    def held_out_data(self) -> HeldOut:
        """Return what objectives are evaluated on."""
        from pretrain.objective import HeldOut

        return HeldOut(self.held_out, self.accelerator, self.tokenizer_folder)

    def record_outputs(self, encoder: BaseEncoder) -> dict | None:
        """Return embeddings of a few held-out inputs, to verify copies of the encoder; None: not supported."""
        return None


def list_datasets(objective_file: ModuleType) -> dict[str, type] | None:
    """Return an objective's data sets by modality; None: two views of an input, which each modality makes."""
    own = getattr(objective_file, "Dataset", None)
    return getattr(objective_file, "DATASETS", {own.modality: own} if own else None)


def load_modality(config: Pretrain, accelerator: Accelerator) -> Modality:
    """Return the configured modality."""
    return importlib.import_module(f"pretrain.modalities.{config.modality}").Modality(config, accelerator)
