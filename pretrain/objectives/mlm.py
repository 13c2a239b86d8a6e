"""Masked language modelling (Devlin et al. 2019): predict the tokens that were hidden, from both sides.

Dynamic masking (Liu et al. 2019): every visit hides others. A rate of 0.3 to 0.4 serves better than 0.15, and plain
[MASK] better than the 80/10/10 mixture (Wettig et al. 2023); evaluation always hides the same 15 %, so that runs compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.batches import packed
from data.shards import Shards
from engine.config import Section, Share
from engine.loop import Batch, Output
from pretrain.encoder import Encoder

EVALUATION_RATE = 0.15


class Config(Section):
    """Masked language modelling."""

    name: Literal["mlm"] = "mlm"
    """mlm: predict the hidden tokens."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of a row's tokens to predict."""
    random: Share = 0.0
    """Share of those shown as a random token instead of [MASK] (0.1 in BERT)."""
    unchanged: Share = 0.0
    """Share of those shown as they are (0.1 in BERT)."""

    @model_validator(mode="after")
    def shares_fit(self):
        if self.random + self.unchanged > 1:
            raise ValueError(f"random {self.random} and unchanged {self.unchanged} are more than 1 together")
        return self

    def suits(self, batch_size: int, dropout: float, length: int) -> None:
        """Whatever the rest of the configuration says."""


def hide(config: Config, ids: np.ndarray, document: np.ndarray, shards: Shards,
         generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(ids as shown, which are to be predicted) for one row, each (length,).

    A fixed number is drawn, `mask_rate` of the row's ordinary tokens and at least one; special tokens never.
    """
    special = shards.special
    candidates = np.flatnonzero((document >= 0) & (ids != special["cls"]) & (ids != special["sep"]))
    count = min(len(candidates), max(1, round(config.mask_rate * len(candidates))))
    chosen = generator.permutation(candidates)[:count]
    shown, at = ids.copy(), np.zeros(len(ids), dtype=bool)
    at[chosen] = True
    keep, swap = round(config.unchanged * count), round(config.random * count)
    shown[chosen[keep + swap:]] = special["mask"]
    shown[chosen[keep:keep + swap]] = generator.integers(0, shards.vocab_size, size=swap)
    return shown, at


class Examples:
    """What steps are made of: rows of the shards, each hidden by its own generator."""

    def __init__(self, config: Config, shards: Shards, tokenizer: Path | None = None):
        self.config, self.shards = config, shards

    def __len__(self) -> int:
        return len(self.shards)

    def hint(self) -> str:
        """Nothing to say: any text will do."""
        return ""

    def collate(self, numbers: list[int], generators: list[np.random.Generator]) -> Batch:
        """Packed rows, and int64 (hidden tokens,) `places`, numbers into the rows laid end to end, and `targets`."""
        inputs = packed(self.shards, numbers)
        ids, document = inputs["input_ids"], inputs["document_ids"]
        shown, at = (np.stack(column) for column in zip(
            *(hide(self.config, *row, self.shards, generator) for *row, generator in zip(ids, document, generators))))
        inputs |= {"input_ids": shown, "places": np.flatnonzero(at), "targets": ids[at]}
        return Batch({name: torch.from_numpy(array) for name, array in inputs.items()}, int((document >= 0).sum()))


class Objective(nn.Module):
    """Cross-entropy of the hidden tokens, summed; counted are the hidden tokens."""

    teaches_vocabulary = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, places: Tensor, targets: Tensor, **rows: Tensor) -> Output:
        """All inputs as `Examples.collate` makes them."""
        return Output(self.encoder.vocabulary_loss(places, targets, **rows),
                      places.new_full((), len(places)))

    def after_step(self, step: int) -> None:
        """Nothing to keep."""
