"""Contrastive learning: pull the two inputs of a pair together and push them away from the other inputs of the step.

InfoNCE (van den Oord et al. 2018) on pooled last hidden states, as in SimCSE (Gao et al. 2021) and DeCLUTR (Giorgi et
al. 2021). Negatives come from all micro-batches and processes of a step (`engine.training.gradcache`).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.training.step import Output
from pretrain.info_nce import CachedGrads, cached_info_nce
from pretrain.model.base import BaseEncoder
from pretrain.objective import BaseObjective
from pretrain.views import OpenFraction, Views


class Config(Views):
    """Contrastive learning."""

    name: Literal["contrastive"] = "contrastive"
    """contrastive: find the other text of a pair among all texts of the step."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Divisor of the cosine similarities."""
    relative_margin: OpenFraction | None = None
    """Leave out negatives that are more similar to the anchor than (1 - margin) times its positive: they probably mean
    the same (Moreira et al. 2024); none: leave out none."""

    added_later: ClassVar[tuple[str, ...]] = ("relative_margin",)

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raise ConfigError if there are no negatives, or if the views leave nothing to learn."""
        if batch_size < 2:
            raise ConfigError("train.batch_size: in-batch negatives need at least 2 pairs per step")
        super().validate_training(batch_size, dropout, max_length)


class Objective(BaseObjective):
    """Summed InfoNCE and the number of pairs; symmetric for views of one text, anchor to positive for a table."""

    compares_views = True

    def __init__(self, config: Config, encoder: BaseEncoder):
        super().__init__()
        self.encoder = encoder
        self.loss_args = config.temperature, config.views != "pairs", config.relative_margin
        self.projection = build_projection(encoder, config.projection_dim)

    def embed(self, group_ids: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (embeddings, (pairs, inputs per pair, width); group_ids) of one micro-batch."""
        embeddings = self.encoder.embed(group_ids.numel(), **inputs)
        return self.projection(embeddings).unflatten(0, group_ids.shape), group_ids

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """Return the additional arguments of `forward` for each micro-batch."""
        return [{"cached": grads} for grads in cached_info_nce(embedded, *self.loss_args)]

    def forward(self, group_ids: Tensor, cached: CachedGrads | None = None, **inputs: Tensor) -> Output:
        """Compute the loss of a micro-batch of pairs; `cached` is needed unless they are the whole step."""
        embeddings, group_ids = self.embed(group_ids, **inputs)
        cached = cached or self.cache_gradients([(embeddings, group_ids)])[0]["cached"]
        return Output(*surrogate_loss(embeddings, cached))


def surrogate_loss(embeddings: Tensor, cached: CachedGrads) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return (summed loss of these pairs, with the gradient of the whole step's loss; their count; metrics to log)."""
    dot, count = (embeddings.float() * cached.gradient).sum(), cached.losses.new_full((), len(cached.losses))
    metrics = {name: torch.stack([stat * count, count]) for name, stat in cached.stats.items()}
    return cached.losses.sum() + dot - dot.detach(), count, metrics


def build_projection(encoder: BaseEncoder, dim: int | None) -> nn.Module:
    """Build a two-layer projection to `dim` (Chen et al. 2020), or the identity. Not saved with the encoder."""
    if dim is None:
        return nn.Identity()
    return nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.Linear(encoder.width, dim))
