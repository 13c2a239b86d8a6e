"""The head of self-distillation (Caron et al. 2021), which is not saved."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, BOTTLENECK = 512, 128


class PrototypeHead(nn.Module):
    """Cosines of a projected embedding with each prototype."""

    def __init__(self, width: int, prototypes: int):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(prototypes, BOTTLENECK))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return outputs float32 (inputs, prototypes) of embeddings (inputs, width)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            projected = F.normalize(self.projection(embeddings), dim=-1)
            return projected @ F.normalize(self.prototypes, dim=-1).T
