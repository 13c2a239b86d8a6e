"""Masked language modelling and contrastive learning in one forward pass.

Both texts of a pair are hidden in part: each is an example of masked language modelling and the other's partner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from data.tokens.shards import Shards
from engine.training.gradcache import all_gather_rows
from engine.training.step import Output
from pretrain.info_nce import CachedGrads
from pretrain.masking import Masking
from pretrain.model.encoder import Encoder
from pretrain.objectives import contrastive
from pretrain.views import PairDataset as Pairs


class Config(contrastive.Config):
    """Masked language modelling and contrastive learning at once."""

    name: Literal["joint"] = "joint"
    """joint: both, on the same texts."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of each text's tokens to predict."""
    contrastive_weight: NonNegativeFloat = 0.1
    """Weight of the contrastive loss, a mean over pairs, beside the masked one, a mean over hidden tokens."""


class Dataset(Pairs):
    """Pairs of texts, hidden."""

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path):
        super().__init__(config, shards, tokenizer_folder, Masking(mask_rate=config.mask_rate))


class Objective(contrastive.Objective):
    """mean cross-entropy of hidden tokens + weight * mean InfoNCE; counted are hidden tokens, the means are the step's."""

    trains_mlm_head = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__(config, encoder)
        self.weight = config.contrastive_weight

    def embed(self, group_ids: Tensor, masked_indices: Tensor, targets: Tensor, **rows: Tensor):
        """(vectors, group_ids, how many tokens are hidden) of one micro-batch."""
        return *super().embed(group_ids, **rows), len(masked_indices)

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor, int]]) -> list[dict]:
        """As in contrastive learning, and how many tokens of the step are hidden for each of its pairs."""
        keys = embedded[0][1]
        counts, _ = all_gather_rows(
            keys.new_tensor([[sum(hidden for *_, hidden in embedded), sum(len(own) for own, *_ in embedded)]])
        )
        hidden, pairs = counts.sum(0)
        return [
            more | {"masked_tokens_per_pair": hidden / pairs}
            for more in super().cache_gradients([part[:2] for part in embedded])
        ]

    def forward(
        self,
        group_ids: Tensor,
        masked_indices: Tensor,
        targets: Tensor,
        cached: CachedGrads | None = None,
        masked_tokens_per_pair: Tensor | None = None,
        **rows: Tensor,
    ) -> Output:
        """Inputs as `Examples.collate` makes them, and what `cache_gradients` said if they are not the whole step."""
        seen: list[Tensor] = []
        masked = self.encoder.mlm_loss(masked_indices, targets, on_hidden=seen.append, **rows)
        vectors = self.pool_pairs(seen[0], rows["document_ids"], group_ids)
        if cached is None:
            cached, masked_tokens_per_pair = self.cache_gradients([(vectors, group_ids, len(masked_indices))])[
                0
            ].values()
        loss, pairs, figures = contrastive.surrogate_loss(vectors, cached)
        count = pairs.new_full((), len(masked_indices))
        # The loop divides by the hidden tokens of the step: so many for each pair make of the sum over pairs their mean.
        return Output(
            masked + self.weight * masked_tokens_per_pair * loss,
            count,
            {
                "mlm_loss": torch.stack([masked.detach().float(), count]),
                "contrastive_loss": torch.stack([loss.detach(), pairs]),
                **figures,
            },
        )
