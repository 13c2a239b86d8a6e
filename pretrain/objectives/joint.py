"""Masked language modeling and contrastive learning in one forward pass, in which both texts of a pair are masked."""

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
from pretrain.pairs import PairDataset


class Config(contrastive.Config):
    """Masked language modeling and contrastive learning."""

    name: Literal["joint"] = "joint"
    """joint: both, on the same texts."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of each text's tokens to predict."""
    contrastive_weight: NonNegativeFloat = 0.1
    """Weight of the mean contrastive loss per pair, added to the mean masked loss per token."""


class Dataset(PairDataset):
    """Pairs of masked texts."""

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path):
        super().__init__(config, shards, tokenizer_folder, Masking(mask_rate=config.mask_rate))


class Objective(contrastive.Objective):
    """Mean cross-entropy of masked tokens + weight * mean InfoNCE, summed over the step's masked tokens."""

    trains_mlm_head = True

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__(config, encoder)
        self.weight = config.contrastive_weight

    def embed(self, group_ids: Tensor, masked_indices: Tensor, targets: Tensor, **rows: Tensor):
        """Return (embeddings, group_ids, number of masked tokens) of one micro-batch."""
        return *super().embed(group_ids, **rows), len(masked_indices)

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor, int]]) -> list[dict]:
        """Return the arguments that contrastive learning needs, and the step's masked tokens per pair."""
        local = [[sum(masked for *_, masked in embedded), sum(len(embeddings) for embeddings, *_ in embedded)]]
        counts, _ = all_gather_rows(embedded[0][1].new_tensor(local))
        masked, pairs = counts.sum(0)
        cached = super().cache_gradients([part[:2] for part in embedded])
        return [arguments | {"masked_tokens_per_pair": masked / pairs} for arguments in cached]

    def forward(
        self,
        group_ids: Tensor,
        masked_indices: Tensor,
        targets: Tensor,
        cached: CachedGrads | None = None,
        masked_tokens_per_pair: Tensor | None = None,
        **rows: Tensor,
    ) -> Output:
        """Compute the loss of inputs from `Dataset.collate`; `cached` is needed unless they are the whole step."""
        hidden: list[Tensor] = []
        mlm_loss = self.encoder.mlm_loss(masked_indices, targets, on_hidden=hidden.append, **rows)
        pooled = self.encoder.pool(hidden[0], rows["document_ids"], group_ids.numel())
        embeddings = self.projection(pooled).unflatten(0, group_ids.shape)
        if cached is None:
            embedded = [(embeddings, group_ids, len(masked_indices))]
            cached, masked_tokens_per_pair = self.cache_gradients(embedded)[0].values()
        loss, pairs, metrics = contrastive.surrogate_loss(embeddings, cached)
        count = pairs.new_full((), len(masked_indices))
        metrics = {
            "mlm_loss": torch.stack([mlm_loss.detach().float(), count]),
            "contrastive_loss": torch.stack([loss.detach(), pairs]),
            **metrics,
        }
        # The trainer divides by the step's masked tokens, so the sum over pairs is scaled to become a mean over pairs.
        return Output(mlm_loss + self.weight * masked_tokens_per_pair * loss, count, metrics)
