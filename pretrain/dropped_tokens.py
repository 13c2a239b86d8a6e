"""Whole texts to be rebuilt from a noisy latent vector, by a decoder that does not see all tokens before each.

Without this word dropout (Bowman et al. 2016), the tokens before are enough for most predictions.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from data.sampling import draw_noise
from engine.training.step import MicroBatch
from pretrain.deleted_tokens import DeletedTokensDataset


class Noise(Protocol):
    """The settings of the noise."""

    latent_dim: int
    token_dropout: float


class DroppedTokensDataset(DeletedTokensDataset):
    """The shards' pieces, of which the encoder reads all tokens and the decoder a random part."""

    def read_texts(self, indices: list[int], generators: list[np.random.Generator]) -> list[tuple[np.ndarray, ...]]:
        """Return the tokens of each piece twice, as the encoder reads them and as they are rebuilt."""
        texts = [self.shards.tokens[start : start + size] for start, size in self.shards.pieces[indices]]
        return [(text, text) for text in texts]

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make what `DeletedTokensDataset.collate` does, and `noise`, float32 (texts, latent_dim).

        In `target_input_ids`, which the decoder reads, `token_dropout` of the tokens are the mask token.
        """
        inputs, num_tokens = super().collate(indices, generators)
        inputs["noise"] = torch.from_numpy(draw_noise(generators, self.config.latent_dim))
        documents, is_first = inputs["target_document_ids"].numpy(), inputs["target_position_ids"].numpy() == 0
        draws = np.ones(documents.shape)
        for number, generator in enumerate(generators):
            is_own = documents == number
            draws[is_own] = generator.random(is_own.sum())
        is_dropped = (draws < self.config.token_dropout) & ~is_first
        inputs["target_input_ids"][torch.from_numpy(is_dropped)] = self.shards.special_ids["mask"]
        return MicroBatch(inputs, num_tokens)
