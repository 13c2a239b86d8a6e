"""Masked language modelling and contrastive learning in one forward pass.

Both texts of a pair are hidden in part: each is an example of masked language modelling and the other's partner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from data.shards import Shards
from engine.gradient import Output
from engine.tied import everyone
from pretrain.contrast import Said
from pretrain.encoder import Encoder
from pretrain.masking import Masking
from pretrain.objectives import contrastive
from pretrain.views import Examples as Pairs


class Config(contrastive.Config):
    """Masked language modelling and contrastive learning at once."""

    name: Literal["joint"] = "joint"
    """joint: both, on the same texts."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of each text's tokens to predict."""
    weight: NonNegativeFloat = 0.1
    """Weight of the contrastive loss, a mean over pairs, beside the masked one, a mean over hidden tokens."""


class Examples(Pairs):
    """Pairs of texts, hidden."""

    def __init__(self, config: Config, shards: Shards, tokenizer: Path):
        super().__init__(config, shards, tokenizer, Masking(mask_rate=config.mask_rate))


class Objective(contrastive.Objective):
    """mean cross-entropy of hidden tokens + weight * mean InfoNCE; counted are hidden tokens, the means are the step's."""

    teaches_vocabulary = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__(config, encoder)
        self.weight = config.weight

    def represent(self, keys: Tensor, places: Tensor, targets: Tensor, **rows: Tensor):
        """(vectors, keys, how many tokens are hidden) of one micro-batch."""
        return *super().represent(keys, **rows), len(places)

    def tie(self, represented: list[tuple[Tensor, Tensor, int]]) -> list[dict]:
        """As in contrastive learning, and how many tokens of the step are hidden for each of its pairs."""
        keys = represented[0][1]
        counts, _ = everyone(keys.new_tensor([[sum(hidden for *_, hidden in represented),
                                               sum(len(own) for own, *_ in represented)]]))
        hidden, pairs = counts.sum(0)
        return [more | {"hidden_a_pair": hidden / pairs} for more in super().tie([part[:2] for part in represented])]

    def forward(self, keys: Tensor, places: Tensor, targets: Tensor, said: Said | None = None,
                hidden_a_pair: Tensor | None = None, **rows: Tensor) -> Output:
        """Inputs as `Examples.collate` makes them, and what `tie` said if they are not the whole step."""
        seen: list[Tensor] = []
        masked = self.encoder.vocabulary_loss(places, targets, look=seen.append, **rows)
        vectors = self.vectors(seen[0], rows["document_ids"], keys)
        if said is None:
            said, hidden_a_pair = self.tie([(vectors, keys, len(places))])[0].values()
        loss, pairs, figures = contrastive.contrasted(vectors, said)
        count = pairs.new_full((), len(places))
        # The loop divides by the hidden tokens of the step: so many for each pair make of the sum over pairs their mean.
        return Output(masked + self.weight * hidden_a_pair * loss, count, {
            "masked": torch.stack([masked.detach().float(), count]),
            "contrastive": torch.stack([loss.detach(), pairs]), **figures})
