"""From a corpus's configuration to its tokenizer and shards: what `python -m data` does, and pretraining does first."""

from __future__ import annotations

from pathlib import Path

from data import curate, shards, tokenizer as tokenizers
from data.config import Corpus, Tokenizer
from data.encoders import locate


def prepare(corpus: Corpus, tokenizer: Tokenizer, init: str | None, length: int,
            positions: int = 512) -> tuple[Path | None, Path, Path]:
    """(folder of the encoder `init`, tokenizer, shards), each made if it is not there.

    positions: longest text in tokens that a tokenizer trained here says it takes. Raises ConfigError and DataError.
    """
    encoder = locate(init) if init else None
    documents = curate.documents(corpus)
    found = (tokenizers.reuse(corpus.name, encoder) if encoder else
             tokenizers.train(corpus.name, tokenizer, documents, positions))
    return encoder, found, shards.build(corpus, documents, found, length, encoder)
