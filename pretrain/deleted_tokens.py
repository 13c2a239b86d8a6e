"""Texts with tokens deleted, and the whole texts to be rebuilt: the noise of TSDAE (Wang et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch

from data.tokens.collate import add_special_tokens, pack_texts
from data.tokens.shards import Shards
from engine.training.step import MicroBatch
from pretrain.next_tokens import find_next_tokens
from pretrain.pairs import delete_tokens


class Noise(Protocol):
    """The setting of the noise."""

    delete_rate: float


class DeletedTokensDataset:
    """The shards' pieces, each with tokens deleted by its own generator."""

    modality: ClassVar[str] = "text"

    def __init__(self, config: Noise, shards: Shards, tokenizer_folder: Path | None = None):
        self.config, self.shards = config, shards

    def __len__(self) -> int:
        return len(self.shards.pieces)

    def warning(self) -> str:
        """Return nothing: any corpus is suitable."""
        return ""

    def read_texts(self, indices: list[int], generators: list[np.random.Generator]) -> list[tuple[np.ndarray, ...]]:
        """Return (the tokens that are kept, all tokens) of each piece, without special tokens."""
        texts = [self.shards.tokens[start : start + size] for start, size in self.shards.pieces[indices]]
        rate = self.config.delete_rate
        return [(delete_tokens(text, rate, each), text) for text, each in zip(texts, generators, strict=True)]

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make packed rows with one document per text, and those of the whole texts, `target_*`.

        `target_indices` and `targets`, int64 (predicted,), are what `find_next_tokens` returns of the whole texts. The
        numbers of documents are those of the texts in both rows, which are packed separately.
        """
        ids, max_length = self.shards.special_ids, self.shards.max_length
        (inputs, positions), (whole, _) = (
            pack_texts([add_special_tokens(text, ids, max_length) for text in texts], max_length, ids["pad"])
            for texts in zip(*self.read_texts(indices, generators), strict=True)
        )
        at, targets = find_next_tokens(whole["input_ids"], whole["document_ids"])
        names = ("input_ids", "position_ids", "document_ids")
        inputs |= {f"target_{name}": whole[name] for name in names} | {"target_indices": at, "targets": targets}
        inputs["text_numbers"] = np.arange(len(indices))
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, len(positions))
