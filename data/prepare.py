"""Prepare a corpus: documents, tokenizer and shards, as `python -m data` and pretraining do."""

from pathlib import Path

from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.encoders import resolve_encoder
from data.tokens.config import TokenizerConfig
from data.tokens.shards import build_shards
from data.tokens.tokenizer import copy_tokenizer, train_on_corpus


def prepare(
    corpus: Corpus, tokenizer: TokenizerConfig, init: str | None, max_length: int, max_positions: int = 512
) -> tuple[Path | None, Path, Path]:
    """Build what does not exist yet and return the folders (encoder `init`, tokenizer, shards).

    max_positions: `model_max_length` of a tokenizer trained here, in tokens. Raises ConfigError and DataError.
    """
    encoder = resolve_encoder(init) if init else None
    documents = build_corpus(corpus)
    name = corpus.name
    folder = copy_tokenizer(name, encoder) if encoder else train_on_corpus(name, tokenizer, documents, max_positions)
    return encoder, folder, build_shards(corpus, documents, folder, max_length, encoder)
