"""Configuration of data preparation; `python -m data --help` lists every key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.corpus.config import Corpus
from data.images.config import ImageCorpus, Pixels
from data.tokens.config import TokenizerConfig
from engine.config.schema import Section
from engine.errors import ConfigError, suggest


class Prepare(Section):
    """Turn raw text into a tokenizer and memory-mapped token shards."""

    modality: Literal["text", "images"] = "text"
    """Kind of the inputs."""
    corpus: Corpus
    """Unlabeled text."""
    init: str | None = None
    """Encoder to copy the tokenizer from: a built-in name (minilm), folder or Hub name; none: train a tokenizer."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer to train when init is none."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens per row; longer documents are split, at the end of a sentence where possible."""

    @classmethod
    def choose_schema(cls, tree: dict) -> type[Section]:
        """Return the schema of the modality. Raises ConfigError for an unknown one."""
        if (name := tree.get("modality", "text")) not in SCHEMAS:
            raise ConfigError(f"modality: no {name!r}{suggest(str(name), SCHEMAS)}")
        return SCHEMAS[name]


class PrepareImages(Section):
    """Turn images into memory-mapped shards of pixels."""

    modality: Literal["images"] = "images"
    """Kind of the inputs."""
    corpus: ImageCorpus
    """Unlabeled images."""
    pixels: Pixels = Pixels()
    """The form in which the images are stored and read."""


SCHEMAS: dict[str, type[Section]] = {"text": Prepare, "images": PrepareImages}
