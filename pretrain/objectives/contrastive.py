"""Contrastive learning: a text's vector is nearer to its partner's than to every other text's of the step.

InfoNCE (van den Oord et al. 2018) on pooled last hidden states, as in SimCSE (Gao et al. 2021) and DeCLUTR (Giorgi et al.
2021). The step's texts are held against each other however they are cut into micro-batches and processes (`engine.training.gradcache`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from data.tokens.shards import Shards
from engine.errors import ConfigError
from engine.training.step import MicroBatch, Output
from pretrain.info_nce import CachedGrads, cached_info_nce
from pretrain.masking import Masking
from pretrain.model.encoder import Encoder
from pretrain.views import PairDataset as Pairs, Views


class Config(Views):
    """Contrastive learning."""

    name: Literal["contrastive"] = "contrastive"
    """contrastive: tell which two texts belong together."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """What similarities, cosines, are divided by."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """As of every pair of views; and a pair alone has nothing to be told from."""
        if batch_size < 2:
            raise ConfigError("train.batch_size: a pair alone has nothing to be told from; give at least 2")
        super().validate_training(batch_size, dropout, max_length)


class Dataset(Pairs):
    """Pairs of texts, hidden with views=mask."""

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path):
        super().__init__(
            config, shards, tokenizer_folder, Masking(mask_rate=config.mask_rate) if config.views == "mask" else None
        )

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """As `pretrain.views` makes them; what was hidden is not asked for."""
        batch = super().collate(indices, generators)
        return batch._replace(
            inputs={name: batch.inputs[name] for name in batch.inputs if name not in ("places", "targets")}
        )


class Objective(nn.Module):
    """InfoNCE, summed over pairs; counted are pairs. Views of one text seek each other; of a table, firsts seek seconds."""

    trains_mlm_head = False

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder, self.temperature, self.symmetric = encoder, config.temperature, config.views != "pairs"
        self.projection = build_projection(encoder, config.projection_dim)

    def pool_pairs(self, hidden_states: Tensor, document_ids: Tensor, group_ids: Tensor) -> Tensor:
        """(pairs, texts of a pair, width) of last hidden states, (rows, length, width)."""
        return self.projection(self.encoder.pool(hidden_states, document_ids, group_ids.numel())).unflatten(
            0, group_ids.shape
        )

    def embed(self, group_ids: Tensor, **rows: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors, keys) of one micro-batch."""
        return self.pool_pairs(self.encoder.last_hidden_state(**rows), rows["document_ids"], group_ids), group_ids

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """What `forward` takes besides its inputs, for each micro-batch."""
        return [{"cached": each} for each in cached_info_nce(embedded, self.temperature, self.symmetric)]

    def forward(self, group_ids: Tensor, cached: CachedGrads | None = None, **rows: Tensor) -> Output:
        """Inputs as `Examples.collate` makes them, and what `cache_gradients` said if they are not the whole step."""
        vectors, group_ids = self.embed(group_ids, **rows)
        loss, count, figures = surrogate_loss(
            vectors, cached or self.cache_gradients([(vectors, group_ids)])[0]["cached"]
        )
        return Output(loss, count, figures)

    def after_step(self, step: int) -> None:
        """Nothing to keep."""


def surrogate_loss(embeddings: Tensor, cached: CachedGrads) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss of these pairs, whose gradient is that of the whole step's loss; how many; figures for the log)."""
    pull, count = (embeddings.float() * cached.gradient).sum(), cached.losses.new_full((), len(cached.losses))
    return (
        cached.losses.sum() + pull - pull.detach(),
        count,
        {name: torch.stack([figure * count, count]) for name, figure in cached.stats.items()},
    )


def build_projection(encoder: Encoder, dim: int | None) -> nn.Module:
    """Two layers to `dim` (Chen et al. 2020), or the vectors as they are. Never part of the encoder folder."""
    if dim is None:
        return nn.Identity()
    hidden = encoder.model.config.hidden_size
    return nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, dim))
