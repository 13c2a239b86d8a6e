"""The objective that suits the corpus, chosen by the length of its documents before training starts.

Two spans of a document need a document that has room for both. What serves shorter ones was measured with
`benchmarks/transfer.py` (docs/lab-notebook).
"""

from typing import Literal

from data.tokens.shards import Shards
from engine.config.schema import Section
from pretrain.objectives import contrastive, mlm
from pretrain.views import short_text_fraction

MAX_SHORT_FRACTION = 0.5  # of the text in documents too short for two spans
SPANS = {"views": "span", "min_span": 16, "max_span": 48, "max_gap": 2_000}
SHORT_TEXTS = {"views": "delete"}


class Config(Section):
    """The objective that suits the corpus."""

    name: Literal["auto"] = "auto"
    """auto: two spans of a document where most are long enough, two noisy copies of a text where they are not, and mlm
    for a new model; the output names the choice."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration; that of the chosen objective is checked once it is known."""


def choose_objective(shards: Shards, has_init: bool) -> tuple[Section, str]:
    """Return (configuration of the objective for the text in `shards`, the choice and its reason in one line)."""
    if not has_init:
        return mlm.Config(), "objective: mlm, masked tokens, because a new model has no embeddings to improve"
    longest = shards.max_length - 2
    spans = SPANS | {key: min(SPANS[key], longest) for key in ("min_span", "max_span")}
    short, tokens = short_text_fraction(shards, spans["min_span"]), 2 * spans["min_span"]
    if short < MAX_SHORT_FRACTION:
        reason = f"{1 - short:.0%} of the text is in documents of {tokens} tokens or more"
        return contrastive.Config(**spans), f"objective: contrastive, two spans of a document, because {reason}"
    reason = f"{short:.0%} of the text is in documents of fewer than {tokens} tokens"
    return contrastive.Config(**SHORT_TEXTS), f"objective: contrastive, two copies of a text ..., because {reason}"
