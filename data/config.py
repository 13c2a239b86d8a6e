"""What can be set for a corpus. Every key, with its default and meaning: `python -m data --help`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data.corpus.config import Corpus
from data.tokens.config import TokenizerConfig
from engine.config.schema import Section


class Prepare(Section):
    """Turn raw text into a tokenizer and memory-mapped shards."""

    corpus: Corpus
    """The unlabelled text."""
    init: str | None = None
    """The encoder whose tokenizer is used: a built-in name (minilm), a folder, a hub name; none: one is trained."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Used when init is none."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens in a row; longer documents are cut, at the end of a sentence where there is one."""
