"""What pretraining needs of an objective."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from accelerate import Accelerator
from torch import nn

from data.images.shards import PixelShards
from data.tokens.shards import Shards

FIXED_SEED = 20_181_011
"""Of the noise on held-out data, which is the same for every run."""
Gallery = list[tuple[str, list[list[np.ndarray | str]]]]
"""Sections of the report: title, and rows of cells, each uint8 pixels (height, width, channels) or a text."""


class HeldOut(NamedTuple):
    """Data that is not trained on."""

    data: Shards | PixelShards
    accelerator: Accelerator
    tokenizer_folder: Path | None = None
    """The tokenizer of a text corpus."""


class BaseObjective(nn.Module):
    """An objective, `pretrain.objectives.NAME.Objective`: its `forward` computes the loss of inputs from a data set.

    `forward` returns a sum over rows and their count (`engine.training.step.Output`), so that a step is the same
    however its rows are cut. Objectives override what they need of the other methods.
    """

    trains_mlm_head: ClassVar[bool] = False
    """Whether the masked-language head is trained, evaluated and saved."""
    has_generator: ClassVar[bool] = False
    """Whether `save_generator` writes a network of its own, next to the encoder folder."""
    is_adversarial: ClassVar[bool] = False
    """Whether networks are trained against each other, so that the sum of their losses need not fall."""
    compares_views: ClassVar[bool] = False
    """Whether views of an input get similar embeddings, which may collapse to alike ones of all inputs."""
    is_evaluated: bool = False
    """Whether an evaluation was before, or the next one is the last: a first one may be too early to warn of it."""

    def list_copies(self) -> list[nn.Module]:
        """Return the networks that are trained from a copy of the encoder's weights, and therefore at their rate."""
        return []

    def after_step(self, step: int) -> None:
        """Do what follows an optimizer step; by default nothing."""

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return further metrics on held-out data, on every process; called at each evaluation."""
        return {}

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return what the report of the run shows of the objective."""
        return []

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write the network that makes data, to an existing empty folder."""
