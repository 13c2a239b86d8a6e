"""From a corpus's configuration to its tokenizer and shards: what `python -m data` does, and pretraining does first."""

from __future__ import annotations

from pathlib import Path

from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.encoders import resolve_encoder
from data.tokens import shards, tokenizer as tokenizers
from data.tokens.config import TokenizerConfig


def prepare(
    corpus: Corpus, tokenizer: TokenizerConfig, init: str | None, max_length: int, max_positions: int = 512
) -> tuple[Path | None, Path, Path]:
    """(folder of the encoder `init`, tokenizer, shards), each made if it is not there.

    max_positions: longest text in tokens that a tokenizer trained here says it takes. Raises ConfigError and DataError.
    """
    encoder = resolve_encoder(init) if init else None
    documents = build_corpus(corpus)
    found = (
        tokenizers.copy_tokenizer(corpus.name, encoder)
        if encoder
        else tokenizers.train_on_corpus(corpus.name, tokenizer, documents, max_positions)
    )
    return encoder, found, shards.build_shards(corpus, documents, found, max_length, encoder)
