"""What can be set for fine-tuning. Every key, with its default and meaning: `python -m finetune --help`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from data.labelled import Task
from engine.config import Plugin, RunName, Section, Share, Train


class Training(Train):
    """The training loop's settings; steps and rate may follow from the labels and the encoder."""

    steps: PositiveInt | None = None
    """Optimizer steps; none: epochs over the labels, but no fewer than min_steps and no more than max_steps."""
    epochs: PositiveFloat = 10
    """Passes over the labels, when steps is none."""
    min_steps: PositiveInt = 100
    """Fewest steps, when steps is none: tiny sets need enough of them (Zhang et al. 2021)."""
    max_steps: PositiveInt = 1200
    """Most steps, when steps is none."""
    lr: PositiveFloat | None = None
    """Peak rate of the encoder's top layer; none: lr_fraction of the rate it was pretrained at."""
    lr_fraction: PositiveFloat = 1.0
    """Share of the pretraining rate, when lr is none."""
    unrecorded_lr: PositiveFloat = 1e-4
    """The pretraining rate assumed of an encoder whose record does not say."""
    batch_size: PositiveInt = 16
    """Examples of one optimizer step, over all processes."""
    eval_every: PositiveInt = 50
    """Steps between evaluations on the validation rows."""
    best: bool = True
    """Whether the weights that did best on the validation rows are kept; false: the last ones, no validation label used."""
    patience: PositiveInt | None = 6
    """Evaluations without a better one after which training stops; the best weights are kept either way."""


class Layers(Section):
    """How the encoder's layers are taught: how fast, and from when."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Factor on the rate for each layer further down (Howard and Ruder 2018)."""
    head_lr: PositiveFloat = 1e-3
    """Peak rate of the head."""
    embeddings: bool = False
    """Whether the embeddings learn too."""
    unfreeze_every: NonNegativeFloat = 0.0
    """How long the head learns alone, and then each group of layers from the top before the next joins; 0: all at once."""
    unfreeze_unit: Literal["epochs", "steps"] = "epochs"
    """What unfreeze_every counts."""
    unfreeze_group: PositiveInt = 2
    """Layers in a group."""


class Finetune(Section):
    """Teach an encoder a task from a few labels."""

    run: RunName
    """Name of the run: everything it writes is in out/runs/NAME."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Where every random number comes from, and which labels are taken."""
    encoder: str | None = None
    """A built-in name (minilm), a folder, a hub name; none: the newest encoder in out/runs."""
    task: Task
    """The labelled rows."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Longest text in tokens; the rest is cut off."""
    head: Plugin("finetune.heads", "classification") = {}
    """What is put on the encoder."""
    dropout: Share = 0.1
    """Dropout in the encoder's layers and before the classifier."""
    layers: Layers = Layers()
    """How the layers are taught."""
    train: Training = Training()
    baselines: bool = True
    """Whether the two reference rows are measured in the same run."""
