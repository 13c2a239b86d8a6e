"""Configuration of a trained tokenizer."""

from typing import Literal

from pydantic import PositiveInt

from engine.config.schema import Section


class TokenizerConfig(Section):
    """Tokenizer trained when pretraining from scratch; otherwise the encoder's own tokenizer is used."""

    algorithm: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """WordPiece (Schuster and Nakajima 2012), byte-level BPE (Sennrich et al. 2016) or Unigram (Kudo 2018)."""
    vocab_size: PositiveInt = 16_384
    """Vocabulary size, including special tokens."""
    lowercase: bool = True
    """Whether to lowercase text."""
    strip_accents: bool = False
    """Whether to strip accents, and with them vowel signs and tones of many scripts (Thai, Hindi, Vietnamese)."""
    chinese_characters: bool = True
    """Whether to split text around each Chinese character."""
    digits: bool = False
    """Whether each digit is a token of its own."""
    min_frequency: PositiveInt = 2
    """Minimum frequency of a pair to be merged."""
    sample: PositiveInt = 200_000_000
    """Characters to train on, spread over the corpus; more is slower and rarely better."""
