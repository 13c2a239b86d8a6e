"""SimSiam (Chen and He 2021): two views of a text predict each other's vector; no text is held against another.

What keeps all vectors from becoming the same is that no gradient goes through the vector that is predicted. Layer
normalisation stands where the paper has batch normalisation, which would tie a text's loss to its micro-batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from engine.gradient import Output
from pretrain.contrast import spread
from pretrain.encoder import Encoder
from pretrain.objectives import contrastive
from pretrain.views import Views


class Config(Views):
    """Two views that predict each other."""

    name: Literal["simsiam"] = "simsiam"
    """simsiam: predict the vector of a text's other view."""
    predictor: PositiveInt = 64
    """Width of the predictor's inner layer, a bottleneck."""


Examples = contrastive.Examples


class Objective(nn.Module):
    """Negative cosine of prediction and vector, mean of both directions, summed over pairs; counted are pairs."""

    teaches_vocabulary = False

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        hidden = encoder.model.config.hidden_size
        width = config.projection or hidden
        self.projection = nn.Sequential(nn.Linear(hidden, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width),
                                        nn.LayerNorm(width, elementwise_affine=False))
        self.predictor = nn.Sequential(nn.Linear(width, config.predictor), nn.LayerNorm(config.predictor), nn.GELU(),
                                       nn.Linear(config.predictor, width))

    def forward(self, keys: Tensor, **rows: Tensor) -> Output:
        """Inputs as `Examples.collate` makes them."""
        pooled = self.encoder.vectors(self.encoder.hidden(**rows), rows["document_ids"], keys.numel())
        with torch.autocast(pooled.device.type, enabled=False):
            vectors = self.projection(pooled).unflatten(0, keys.shape)
            predicted = self.predictor(vectors)
            first, second = (F.cosine_similarity(predicted[:, one], vectors[:, other].detach(), dim=-1)
                             for one, other in ((0, 1), (1, 0)))
        count = pooled.new_full((), len(keys))
        told = spread(pooled.detach().unflatten(0, keys.shape))
        return Output(-(first + second).sum() / 2, count,
                      {name: torch.stack([figure * count, count]) for name, figure in told.items()})

    def after_step(self, step: int) -> None:
        """Nothing to keep."""
