"""Word vectors: skip-gram with negative sampling (word2vec; Mikolov et al. 2013) on the tokens of the tokenizer.

The embedding of a text is the mean of its tokens' vectors: the cheapest encoder there is. Frequent tokens are left out
at random before the windows are taken.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from data.tokens.shards import Shards
from engine.config.schema import Section
from engine.training.step import MicroBatch, Output
from pretrain.model.static_encoder import StaticEncoder
from pretrain.nearest_tokens import draw_nearest_tokens
from pretrain.objective import BaseObjective, Gallery, HeldOut
from pretrain.objectives import mlm
from pretrain.skip_gram_loss import skip_gram_loss

NEGATIVES_PER_ROW = 64  # sampled once for all pairs of a row (Ji et al. 2016)
NEGATIVE_EXPONENT = 0.75


class Config(Section):
    """Word vectors."""

    name: Literal["skipgram"] = "skipgram"
    """skipgram: predict the tokens in a window around each token, from its vector alone (word2vec)."""
    window: PositiveInt = 5
    """Largest distance of two tokens of a pair."""
    negatives: PositiveInt = 5
    """Random tokens that a pair is compared with."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Share of the text above which a token is left out at random, more often the more frequent it is."""
    smoothing: PositiveFloat | None = 1e-3
    """a of a token's weight in the mean, a / (a + its share of the text) (Arora et al. 2017); none: no weights."""
    is_static: ClassVar[bool] = True

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset(mlm.Dataset):
    """Rows of the shards, without special tokens and some of the frequent tokens."""

    def __init__(self, config: Config, shards: Shards, tokenizer_folder: Path | None = None):
        super().__init__(config, shards)
        counts = shards.token_counts().astype(np.float64)
        counts[list(shards.special_ids.values())] = 0
        share = np.maximum(counts / max(1, counts.sum()), 1e-12) / config.subsample
        self.keep_probs = np.minimum(1, (np.sqrt(share) + 1) / share)  # as word2vec computes it
        smoothed = counts**NEGATIVE_EXPONENT
        self.cumulative = np.cumsum(smoothed / smoothed.sum())

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make `input_ids` and `document_ids` (rows, length), -1 for padding, and `negative_ids` (rows, samples)."""
        special, rows = list(self.shards.special_ids.values()), []
        for index, generator in zip(indices, generators, strict=True):
            ids, _, documents = self.shards.get_row(index)
            is_kept = (generator.random(len(ids)) < self.keep_probs[ids]) & (documents >= 0) & ~np.isin(ids, special)
            rows.append((ids[is_kept], documents[is_kept]))
        length = max(1, *(len(ids) for ids, _ in rows))
        input_ids = np.full((len(rows), length), self.shards.special_ids["pad"])
        document_ids = np.full((len(rows), length), -1)
        for number, (ids, documents) in enumerate(rows):
            input_ids[number, : len(ids)], document_ids[number, : len(ids)] = ids, documents
        drawn = np.stack([generator.random(NEGATIVES_PER_ROW) for generator in generators])
        negative_ids = np.searchsorted(self.cumulative, drawn).clip(max=len(self.cumulative) - 1)
        inputs = {"input_ids": input_ids, "document_ids": document_ids, "negative_ids": negative_ids}
        num_tokens = int((document_ids >= 0).sum())
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, num_tokens)


class Objective(BaseObjective):
    """Loss of all pairs, summed over the tokens, and their number."""

    def __init__(self, config: Config, encoder: StaticEncoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.contexts = nn.Parameter(torch.zeros_like(encoder.vectors))

    def forward(self, input_ids: Tensor, document_ids: Tensor, negative_ids: Tensor) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        vectors = F.embedding(input_ids, self.encoder.vectors)
        contexts, negatives = (F.embedding(ids, self.contexts) for ids in (input_ids, negative_ids))
        loss = skip_gram_loss(vectors, contexts, negatives, document_ids, self.config.window, self.config.negatives)
        return Output(loss, (document_ids >= 0).sum())

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return frequent tokens, each with those of the most similar vectors."""
        return draw_nearest_tokens(self.encoder.vectors.detach(), held_out)
