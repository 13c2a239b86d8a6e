"""TODO."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from engine.config.schema import Section


class TokenizerConfig(Section):
    """The tokenizer trained when a run starts from nothing. One that continues from an encoder uses that encoder's."""

    algorithm: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """wordpiece (Schuster and Nakajima 2012); bpe, over bytes (Sennrich et al. 2016); unigram (Kudo 2018)."""
    vocab_size: PositiveInt = 16_384
    """Tokens in the vocabulary, special ones included."""
    lowercase: bool = True
    """Whether text is lower-cased."""
    strip_accents: bool | None = None
    """Whether accents are taken off letters; none: as lowercase, for wordpiece only."""
    chinese_characters: bool = True
    """Whether each Chinese character is a word of its own."""
    digits: bool = False
    """Whether each digit is a token of its own."""
    min_frequency: PositiveInt = 2
    """How often a pair must be seen to become a token."""
    sample: PositiveInt = 200_000_000
    """Characters it is trained on, spread over the corpus; more is slower and seldom better."""
