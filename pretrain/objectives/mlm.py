"""Masked language modeling (Devlin et al. 2019). Evaluation always masks 15 %, so that runs are comparable."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from data.tokens.collate import collate_rows
from data.tokens.shards import Shards
from engine.training.step import MicroBatch, Output
from pretrain.masking import Masking, mask_tokens
from pretrain.model.encoder import Encoder
from pretrain.objective import BaseObjective

EVAL_MASK_RATE = 0.15


class Config(Masking):
    """Masked language modeling."""

    name: Literal["mlm"] = "mlm"
    """mlm: predict masked tokens."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset:
    """Rows of the shards, each masked by its own generator."""

    modality: ClassVar[str] = "text"

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path | None = None):
        self.config, self.shards = config, shards

    def __len__(self) -> int:
        return len(self.shards)

    def warning(self) -> str:
        """Return nothing: any corpus is suitable."""
        return ""

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make packed rows, and `masked_indices` (into the flattened rows) and `targets`, both int64 (masked,)."""
        inputs = collate_rows(self.shards, indices)
        ids, document_ids = inputs["input_ids"], inputs["document_ids"]
        rows = [
            mask_tokens(self.config, *row, self.shards, generator)
            for *row, generator in zip(ids, document_ids, generators, strict=True)
        ]
        masked, mask = (np.stack(column) for column in zip(*rows, strict=True))
        inputs |= {"input_ids": masked, "masked_indices": np.flatnonzero(mask), "targets": ids[mask]}
        num_tokens = int((document_ids >= 0).sum())
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, num_tokens)


class Objective(BaseObjective):
    """Summed cross-entropy of the masked tokens, and their count."""

    trains_mlm_head = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, masked_indices: Tensor, targets: Tensor, **rows: Tensor) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        loss = self.encoder.mlm_loss(masked_indices, targets, **rows)
        return Output(loss, masked_indices.new_full((), len(masked_indices)))
