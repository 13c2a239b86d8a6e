"""The objective that suits the corpus, chosen by the length of its documents before training starts.

Two spans of a document need a document that has room for both. Of what was tried on shorter texts (docs/lab-notebook,
benchmarks/transfer.py), masked tokens and two masked copies together gained most. In a corpus of one subject many texts
mean the same, so those that are too similar to a text are not its negatives: with them, more steps harm.
"""

import math
from typing import Literal, NamedTuple

from data.tokens.shards import Shards
from engine.config.schema import Section
from pretrain.config import DEFAULT_STEPS
from pretrain.objectives import contrastive, joint, mlm
from pretrain.pairs import short_text_fraction

MAX_SHORT_FRACTION = 0.5  # of the pieces of text that are of documents too short for two spans
SPANS = {"views": "span", "min_span": 16, "max_span": 48, "max_gap": 2_000}
SHORT_TEXTS = {"views": "mask", "relative_margin": 0.3}
MIN_SHORT_TEXT_STEPS, MAX_SHORT_TEXT_EPOCHS = 80, 10  # corpora of fewer than 2,400 texts would be seen more often


class Config(Section):
    """The objective that suits the corpus."""

    name: Literal["auto"] = "auto"
    """auto: contrastive with two spans of a document where most are long enough, joint with two masked copies of a text
    where they are not, and mlm for a new model; the output names the choice."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration; that of the chosen objective is checked once it is known."""


class Choice(NamedTuple):
    """What `auto` chooses."""

    objective: Section
    steps: int
    """Steps to train if `train.steps` is not set."""
    reason: str
    """The choice and its reason, in one line."""


def choose_objective(shards: Shards, has_init: bool, batch_size: int) -> Choice:
    """Choose the objective for the text in `shards`.

    has_init: whether training continues from an encoder. batch_size: texts, or pairs of spans, per step.
    """
    if not has_init:
        return Choice(mlm.Config(), DEFAULT_STEPS, "mlm, because a new model has no embeddings to improve")
    longest = shards.max_length - 2
    spans = SPANS | {key: min(SPANS[key], longest) for key in ("min_span", "max_span")}
    short, tokens = short_text_fraction(shards, spans["min_span"]), 2 * spans["min_span"]
    if short < MAX_SHORT_FRACTION:
        reason = f"because {1 - short:.0%} of the pieces of text are of documents of {tokens} tokens or more"
        return Choice(contrastive.Config(**spans), DEFAULT_STEPS, f"contrastive, two spans of a document, {reason}")
    reason = f"because {short:.0%} of the pieces of text are of documents of fewer than {tokens} tokens"
    steps = math.ceil(MAX_SHORT_TEXT_EPOCHS * len(shards.pieces) / batch_size)
    steps = min(DEFAULT_STEPS, max(MIN_SHORT_TEXT_STEPS, steps))
    return Choice(joint.Config(**SHORT_TEXTS), steps, f"joint, two masked copies of a text, {reason}")
