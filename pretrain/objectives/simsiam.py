"""SimSiam (Chen and He 2021): two views of a text predict each other's embedding, without negatives.

Stopping the gradient of the predicted embedding prevents a collapse. Layer normalization replaces the batch
normalization of the paper, with which a text's loss would depend on its micro-batch.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from engine.training.step import Output
from pretrain.info_nce import embedding_stats
from pretrain.model.base import BaseEncoder
from pretrain.objective import BaseObjective
from pretrain.views import Views


class Config(Views):
    """Two views that predict each other."""

    name: Literal["simsiam"] = "simsiam"
    """simsiam: predict the embedding of a text's other view."""
    predictor_dim: PositiveInt = 64
    """Width of the predictor's bottleneck."""


class Objective(BaseObjective):
    """Negative cosine of prediction and embedding, averaged over both directions, summed over pairs."""

    compares_views = True

    def __init__(self, config: Config, encoder: BaseEncoder):
        super().__init__()
        self.encoder = encoder
        hidden, width = encoder.width, config.projection_dim or encoder.width
        output_norm, bottleneck = nn.LayerNorm(width, elementwise_affine=False), config.predictor_dim
        self.projection = nn.Sequential(
            nn.Linear(hidden, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width), output_norm
        )
        self.predictor = nn.Sequential(
            nn.Linear(width, bottleneck), nn.LayerNorm(bottleneck), nn.GELU(), nn.Linear(bottleneck, width)
        )

    def forward(self, group_ids: Tensor, **inputs: Tensor) -> Output:
        """Compute the loss of a micro-batch of pairs."""
        pooled = self.encoder.embed(group_ids.numel(), **inputs)
        with torch.autocast(pooled.device.type, enabled=False):
            embeddings = self.projection(pooled).unflatten(0, group_ids.shape)
            predicted = self.predictor(embeddings)
            first, second = (
                F.cosine_similarity(predicted[:, one], embeddings[:, other].detach(), dim=-1)
                for one, other in ((0, 1), (1, 0))
            )
        count = pooled.new_full((), len(group_ids))
        stats = embedding_stats(pooled.detach().unflatten(0, group_ids.shape))
        metrics = {name: torch.stack([stat * count, count]) for name, stat in stats.items()}
        return Output(-(first + second).sum() / 2, count, metrics)
