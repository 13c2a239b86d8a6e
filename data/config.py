"""Configuration of data preparation; `python -m data --help` lists every key."""

from typing import Annotated

from pydantic import Field

from data.corpus.config import Corpus
from data.tokens.config import TokenizerConfig
from engine.config.schema import Section


class Prepare(Section):
    """Turn raw text into a tokenizer and memory-mapped token shards."""

    corpus: Corpus
    """Unlabeled text."""
    init: str | None = None
    """Encoder to copy the tokenizer from: a built-in name (minilm), folder or hub name; none: train a tokenizer."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer to train when init is none."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens per row; longer documents are split, at the end of a sentence where possible."""
