"""Contrastive learning: a text's vector is nearer to its partner's than to every other text's of the step.

InfoNCE (van den Oord et al. 2018) on pooled last hidden states, as in SimCSE (Gao et al. 2021) and DeCLUTR (Giorgi et al.
2021). The step's texts are held against each other however they are cut into micro-batches and processes (`engine.tied`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from data.shards import Shards
from engine.errors import ConfigError
from engine.gradient import Batch, Output
from pretrain.contrast import Said, said
from pretrain.encoder import Encoder
from pretrain.masking import Masking
from pretrain.views import Examples as Pairs, Views


class Config(Views):
    """Contrastive learning."""

    name: Literal["contrastive"] = "contrastive"
    """contrastive: tell which two texts belong together."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """What similarities, cosines, are divided by."""

    def suits(self, batch_size: int, dropout: float, length: int) -> None:
        """As of every pair of views; and a pair alone has nothing to be told from."""
        if batch_size < 2:
            raise ConfigError("train.batch_size: a pair alone has nothing to be told from; give at least 2")
        super().suits(batch_size, dropout, length)


class Examples(Pairs):
    """Pairs of texts, hidden with views=mask."""

    def __init__(self, config: Config, shards: Shards, tokenizer: Path):
        super().__init__(config, shards, tokenizer, Masking(mask_rate=config.mask_rate) if config.views == "mask" else None)

    def collate(self, numbers: list[int], generators: list[np.random.Generator]) -> Batch:
        """As `pretrain.views` makes them; what was hidden is not asked for."""
        batch = super().collate(numbers, generators)
        return batch._replace(inputs={name: batch.inputs[name] for name in batch.inputs if name not in ("places", "targets")})


class Objective(nn.Module):
    """InfoNCE, summed over pairs; counted are pairs. Views of one text seek each other; of a table, firsts seek seconds."""

    teaches_vocabulary = False

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.encoder, self.temperature, self.mutual = encoder, config.temperature, config.views != "pairs"
        self.projection = projection(encoder, config.projection)

    def vectors(self, states: Tensor, document_ids: Tensor, keys: Tensor) -> Tensor:
        """(pairs, texts of a pair, width) of last hidden states, (rows, length, width)."""
        return self.projection(self.encoder.vectors(states, document_ids, keys.numel())).unflatten(0, keys.shape)

    def represent(self, keys: Tensor, **rows: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors, keys) of one micro-batch."""
        return self.vectors(self.encoder.hidden(**rows), rows["document_ids"], keys), keys

    def tie(self, represented: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """What `forward` takes besides its inputs, for each micro-batch."""
        return [{"said": each} for each in said(represented, self.temperature, self.mutual)]

    def forward(self, keys: Tensor, said: Said | None = None, **rows: Tensor) -> Output:
        """Inputs as `Examples.collate` makes them, and what `tie` said if they are not the whole step."""
        vectors, keys = self.represent(keys, **rows)
        loss, count, figures = contrasted(vectors, said or self.tie([(vectors, keys)])[0]["said"])
        return Output(loss, count, figures)

    def after_step(self, step: int) -> None:
        """Nothing to keep."""


def contrasted(vectors: Tensor, said: Said) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss of these pairs, whose gradient is that of the whole step's loss; how many; figures for the log)."""
    pull, count = (vectors.float() * said.gradient).sum(), said.losses.new_full((), len(said.losses))
    return (said.losses.sum() + pull - pull.detach(), count,
            {name: torch.stack([figure * count, count]) for name, figure in said.spread.items()})


def projection(encoder: Encoder, width: int | None) -> nn.Module:
    """Two layers to `width` (Chen et al. 2020), or the vectors as they are. Never part of the encoder folder."""
    if width is None:
        return nn.Identity()
    hidden = encoder.model.config.hidden_size
    return nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))
