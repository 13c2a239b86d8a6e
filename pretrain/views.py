"""Settings of the two texts of a positive pair, which objectives with a loss over pairs share.

Another modality makes its own views of its inputs, and ignores all of these settings but `projection_dim`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from data.tokens.pairs import PairSource
from engine.config.schema import Section
from engine.errors import ConfigError

OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class Views(Section):
    """The two texts of a positive pair."""

    views: Literal["span", "mask", "delete", "dropout", "pairs"] = "span"
    """span: two spans of one document (Giorgi et al. 2021); mask: one text masked twice; delete: one text with tokens
    deleted twice, the noise of TSDAE (Wang et al. 2021); dropout: one text under two dropout masks (Gao et al. 2021),
    needs dropout; pairs: columns of your own table."""
    pairs: PairSource | None = None
    """The table for views=pairs (files, hub or wheel) and its columns: anchor, positive, and optionally negative."""
    min_span: PositiveInt = 16
    """Minimum tokens of a span, if the document has as many."""
    max_span: PositiveInt = 48
    """Maximum tokens of a span."""
    max_gap: NonNegativeInt = 64
    """Maximum tokens between the two spans of a pair."""
    overlap: bool = False
    """Whether the two spans may overlap; they do in a document too short for two separate spans."""
    mask_rate: OpenFraction = 0.3
    """Fraction of each text's tokens to mask or delete, with views=mask or delete."""
    projection_dim: PositiveInt | None = None
    """Width of a two-layer projection between embeddings and loss, not saved; none: no projection."""

    @model_validator(mode="after")
    def check_spans(self) -> Views:
        """Reject contradictory settings."""
        if self.min_span > self.max_span:
            raise ValueError(f"min_span={self.min_span} is more than max_span={self.max_span}")
        if (self.views == "pairs") != (self.pairs is not None):
            raise ValueError("views=pairs and pairs.files (or hub, or wheel) go together")
        return self

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raise ConfigError if these views leave nothing to learn with the rest of the configuration."""
        if self.views == "dropout" and dropout == 0:
            raise ConfigError(
                "objective.views: dropout makes two views of a text by dropout; set for example dropout=0.1"
            )
        if self.views == "span" and self.max_span > max_length - 2:
            limit = f"{self.max_span} tokens and two special ones do not fit max_length={max_length}"
            raise ConfigError(f"objective.max_span: {limit}")
