"""What fine-tuning needs of one kind of data, one file each. `task.modality=X` selects the file X.py.

A file defines `Config`, the schema of its configuration, and `Modality`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data import modalities
from data.tasks.splits import Example
from engine.errors import ConfigError
from finetune.config import Finetune

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Modality:
    """Data sets and networks of a modality, for one configuration.

    A file's class adds:

    build_dataset(examples, folder, description, label_names=None)    inputs of the encoder in `folder`, with `labels`
                                              and `get_batch` if there are label names; description: for errors
    build_network(folder, label_names, random_init) -> Network       the encoder with a new last layer
    build_encoder(folder, random_init) -> Network                    the encoder alone
    fit_features(examples)                    function from examples to the features of the linear baseline
    embed(examples, folder, accelerator, random_init=False)          embeddings without fine-tuning, float32 (examples,
                                              width); random_init: of the same network with random weights

    They raise DataError for an example or a folder that cannot be read.
    """

    linear_baseline: ClassVar[tuple[str, str]] = ("", "")
    """Key in metrics.json, and name, of the features of the linear baseline; empty: there is none."""

    def describe_features(self, examples: list[Example]) -> str:
        """Return the name of the features that `fit_features` extracts."""
        return self.linear_baseline[1]

    def describe_one_hot(self, examples: list[Example]) -> str:
        """Return the name of the features of `fit_one_hot`; empty: there are none."""
        return ""

    def __init__(self, config: Finetune):
        self.config, self.shared = config, modalities.load_modality(config.task.modality)
        self.problem_type = config.task.load_problem_type().configure(config.head)

    def validate_config(self) -> None:
        """Raise ConfigError for settings that this modality does not support."""

    def count_overlap(self, examples: list[Example], others: list[Example]) -> dict[str, int]:
        """Return {"num_rows", "exact", "near"} of the examples that occur, or nearly occur, in others; {}: unknown."""
        return {}

    def list_class_texts(self, label_names: list[str], rows: list[Example]) -> list[Example]:
        """List examples made of the names or descriptions of classes; none where they cannot be inputs.

        rows: all training rows, which are read without their labels.
        """
        return []

    def record_outputs(
        self, model: PreTrainedModel, folder: Path, examples: list[Example], output_fn: Callable[[object], Tensor]
    ) -> dict | None:
        """Return a few inputs and `output_fn` of the model's output for each, to verify copies; None: not supported."""
        inputs, max_length = [example.texts for example in examples], getattr(self.config, "max_length", None)
        return self.shared.record_outputs(model, folder, inputs, max_length, output_fn)

    def sample_rows(self, examples: list[Example]) -> dict | None:
        """Return labeled rows to evaluate exported models on; None: not supported."""
        return self.shared.sample_rows(examples, getattr(self.config, "max_length", None))

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Copy the files of the encoder's tokenizer or image processor to a model folder."""
        self.shared.copy_preprocessor(source, target)

    def list_report_metrics(self, metrics: dict) -> tuple[str, ...]:
        """List the metrics of the table, of those on the test set."""
        return self.problem_type.list_report_metrics(metrics)

    def show(self, examples: list[Example], max_chars: int) -> list[dict[str, str]]:
        """Return {"text"}, at most `max_chars` long, or {"image"}, a data URL, of each example, for the run's page."""
        texts = [" | ".join(example.texts) for example in examples]
        return [{"text": text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."} for text in texts]

    def check_contamination(
        self, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
    ) -> tuple[dict, list[int]]:
        """Return (counts of test rows that occur elsewhere, for a study's report; indices of those to measure).

        Raises ConfigError where a study is not supported.
        """
        raise ConfigError(f"task.modality: there is no study of {self.shared.inputs_noun} yet")

    def get_augmentation(self) -> Callable | None:
        """Return the augmentation that `get_batch` of a data set takes, or None."""
        return None


def load_modality(config: Finetune) -> Modality:
    """Return the modality of the configured task."""
    return importlib.import_module(f"finetune.modalities.{config.task.modality}").Modality(config)
