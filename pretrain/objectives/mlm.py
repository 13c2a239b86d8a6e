"""Masked language modelling (Devlin et al. 2019): predict the tokens that were hidden, from both sides.

Evaluation always hides the same 15 %, so that runs compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from data.tokens.collate import collate_rows
from data.tokens.shards import Shards
from engine.training.step import MicroBatch, Output
from pretrain.masking import Masking, mask_tokens
from pretrain.model.encoder import Encoder

EVAL_MASK_RATE = 0.15


class Config(Masking):
    """Masked language modelling."""

    name: Literal["mlm"] = "mlm"
    """mlm: predict the hidden tokens."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Whatever the rest of the configuration says."""


class Dataset:
    """What steps are made of: rows of the shards, each hidden by its own generator."""

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path | None = None):
        self.config, self.shards = config, shards

    def __len__(self) -> int:
        return len(self.shards)

    def warning(self) -> str:
        """Nothing to say: any text will do."""
        return ""

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Packed rows, and int64 (hidden tokens,) `places`, numbers into the rows laid end to end, and `targets`."""
        inputs = collate_rows(self.shards, indices)
        ids, document = inputs["input_ids"], inputs["document_ids"]
        shown, at = (
            np.stack(column)
            for column in zip(
                *(
                    mask_tokens(self.config, *row, self.shards, generator)
                    for *row, generator in zip(ids, document, generators)
                )
            )
        )
        inputs |= {"input_ids": shown, "places": np.flatnonzero(at), "targets": ids[at]}
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, int((document >= 0).sum()))


class Objective(nn.Module):
    """Cross-entropy of the hidden tokens, summed; counted are the hidden tokens."""

    trains_mlm_head = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, masked_indices: Tensor, targets: Tensor, **rows: Tensor) -> Output:
        """All inputs as `Examples.collate` makes them."""
        return Output(
            self.encoder.mlm_loss(masked_indices, targets, **rows), masked_indices.new_full((), len(masked_indices))
        )

    def after_step(self, step: int) -> None:
        """Nothing to keep."""
