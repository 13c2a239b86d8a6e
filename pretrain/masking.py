"""Which tokens are hidden: dynamic masking, every visit hides others (Liu et al. 2019).

A rate of 0.3 to 0.4 serves better than 0.15, and plain [MASK] better than the 80/10/10 mixture (Wettig et al. 2023).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from data.tokens.shards import Shards
from engine.config.schema import Fraction, Section


class Masking(Section):
    """How tokens are hidden."""

    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of a row's tokens to predict."""
    random_prob: Fraction = 0.0
    """Share of those shown as a random token instead of [MASK] (0.1 in BERT)."""
    keep_prob: Fraction = 0.0
    """Share of those shown as they are (0.1 in BERT)."""

    @model_validator(mode="after")
    def check_probabilities(self):
        if self.random_prob + self.keep_prob > 1:
            raise ValueError(f"random {self.random_prob} and unchanged {self.keep_prob} are more than 1 together")
        return self


def mask_tokens(
    config: Masking, input_ids: np.ndarray, document_ids: np.ndarray, shards: Shards, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(ids as shown, which are to be predicted) for one row, each (length,).

    A fixed number is drawn, `mask_rate` of the row's ordinary tokens and at least one; special tokens never.
    """
    special = shards.special_ids
    candidates = np.flatnonzero((document_ids >= 0) & (input_ids != special["cls"]) & (input_ids != special["sep"]))
    count = min(len(candidates), max(1, round(config.mask_rate * len(candidates))))
    chosen = generator.permutation(candidates)[:count]
    shown, at = input_ids.copy(), np.zeros(len(input_ids), dtype=bool)
    at[chosen] = True
    keep, swap = round(config.keep_prob * count), round(config.random_prob * count)
    shown[chosen[keep + swap :]] = special["mask"]
    shown[chosen[keep : keep + swap]] = generator.integers(0, shards.vocab_size, size=swap)
    return shown, at
