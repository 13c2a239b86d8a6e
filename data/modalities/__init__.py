"""Modalities, one file each: the kinds of data an encoder reads. `modality=X` selects the file X.py.

A file defines `MODALITY`, an instance of a subclass of `Modality`. Files of the same name in `pretrain.modalities` and
`finetune.modalities` hold what only one stage needs. Nothing that takes long to import is imported at the top level.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from data.tasks.task import Task, TaskFile
from engine.config.loader import load_config, read_args
from engine.config.schema import list_plugins
from engine.errors import DataError, suggest

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from engine.models.embed import Inputs


class Modality:
    """One kind of data, as both stages and publishing see it."""

    name: ClassVar[str]
    input_noun: ClassVar[str]
    """One input in a sentence, such as `text`."""
    inputs_noun: ClassVar[str]
    """Several inputs, such as `texts`."""
    example_input: ClassVar[str] = "your input"
    """One input in example code."""
    unit: ClassVar[str]
    """What the training loop counts and logs under `tokens`."""
    encoder_task: ClassVar[str | None] = None
    """Name on the hub of the task that an encoder does without fine-tuning."""
    usage_template: ClassVar[str] = ""
    """Template with the usage of an encoder, for its card; empty: the card has none."""
    preprocessor_files: ClassVar[tuple[str, ...]] = ()
    """Files of the tokenizer or the image processor in an encoder folder."""
    pools_states: ClassVar[bool] = False
    """Whether `pool_states` makes vectors to compare inputs by."""

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return the name of the class of transformers that loads a fine-tuned model."""
        raise NotImplementedError

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return the name of transformers' pipeline, which is also the task's name on the hub."""
        raise NotImplementedError

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Copy the files of the tokenizer or the image processor."""
        for name in self.preprocessor_files:
            if (source / name).is_file():
                shutil.copy(source / name, target / name)

    def find_columns(self, columns: list[str]) -> str | list[str] | None:
        """Return the column of the inputs, or the columns, by their names; None if there is none of a known name."""
        return None

    def read_input(self, row: dict, columns: list[str], problem_type: ProblemType, location: str) -> Example | None:
        """Return the input in a row, without a label; None if it is empty. Raises DataError naming row and column."""
        raise NotImplementedError

    def make_reader(self, folder: Path, max_length: int | None, problem_type: ProblemType) -> Callable[[list], Inputs]:
        """Return a function from examples without labels to the inputs of the fine-tuned model in `folder`.

        Instead of examples, images are functions that decode them; their inputs have `problems`, for each image why it
        cannot be read, or an empty string. Inputs of a model that labels words have `labels`; their second row is the
        first token of each word, or -1. Raises DataError where predictions are not supported.
        """
        raise DataError(f"{folder}: it reads {self.inputs_noun}, of which there are no predictions yet")

    def task_file(self) -> type[TaskFile]:
        """Return the schema of the task of a fine-tuning YAML."""
        return TaskFile

    def load_embedder(self, folder: Path) -> nn.Module:
        """Return the encoder in a folder, with `predict` to embeddings, (inputs, width). Raises DataError."""
        raise NotImplementedError

    def pool_states(self, states: tuple[Tensor, ...], inputs: dict[str, Tensor]) -> Tensor:
        """Return a vector for each input from a model's hidden states, (inputs, width), to compare inputs by."""
        raise NotImplementedError

    def pool_layer(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean of a layer's hidden states for each input, float32 (inputs, width).

        attention_mask: of padded inputs that have one; None: all states count.
        """
        raise NotImplementedError

    def join_layers(
        self, states: Sequence[Tensor], layers: Sequence[int], attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the means of some layers' hidden states, each of length 1, joined, float32 (inputs, width).

        states: of all layers. attention_mask: as in `pool_layer`.
        """
        import torch

        means = [self.pool_layer(states[layer], attention_mask) for layer in layers]
        return torch.cat([torch.nn.functional.normalize(mean) for mean in means], 1)

    def record_outputs(
        self,
        model: PreTrainedModel,
        folder: Path,
        inputs: Sequence[tuple[str, ...]],
        max_length: int | None,
        output_fn: Callable[[object], Tensor],
    ) -> dict | None:
        """Return inputs and `output_fn` of the model's output for each, to verify copies; None: not supported."""
        return None

    def sample_rows(self, examples: Sequence[Example], max_length: int | None) -> dict | None:
        """Return labeled rows to evaluate exported models on; None: not supported."""
        return None


def load_modality(name: str) -> Modality:
    """Return the modality in the file of this name."""
    return importlib.import_module(f"data.modalities.{name}").MODALITY


def load_task(path: Path) -> Task:
    """Return the task of a fine-tuning YAML by the schema of its modality. Raises ConfigError or DataError."""
    section = read_args([str(path)]).get("task")
    name = section.get("modality") if isinstance(section, dict) else None
    known = name if name in list_plugins("data.modalities") else "text"  # its schema names an unknown one
    return load_config(load_modality(known).task_file(), [str(path)]).task


def find_architecture(config: dict) -> str:
    """Return the name of a model's class by the contents of its config.json, empty if it has none."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def find_modality(folder: Path, record: dict, config: dict) -> Modality:
    """Return the modality of a model folder: by its record or, if it was made elsewhere, by its files.

    config: contents of config.json. Raises DataError for a record with an unknown one.
    """
    architecture = find_architecture(config)
    has_processor = (folder / "preprocessor_config.json").is_file() and not (folder / "tokenizer_config.json").is_file()
    is_image = architecture.endswith("ForImageClassification") or has_processor
    name = record.get("modality") or ("images" if is_image and not record else "text")
    known = list_plugins("data.modalities")
    if name not in known:
        raise DataError(f"{folder}: its record names the modality {name!r}{suggest(name, known)}")
    return load_modality(name)
