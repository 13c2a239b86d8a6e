"""Pairs of texts that mean the same: two views of a text nobody has labelled, or the columns of a table."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from data.tokens.collate import add_special_tokens, pack_texts
from data.tokens.pairs import PairSource, PairTable, load_pairs as read_pairs
from data.tokens.shards import Shards
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.training.step import MicroBatch
from pretrain.masking import Masking, mask_tokens

OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class Views(Section):
    """What the two texts of a pair are."""

    views: Literal["span", "mask", "dropout", "pairs"] = "span"
    """span: two stretches of one document (Giorgi et al. 2021); mask: one text hidden twice; dropout: one text under two
    dropout masks (Gao et al. 2021), which needs dropout; pairs: columns of your own table."""
    pairs: PairSource | None = None
    """With views=pairs, where the table is (files, hub or wheel) and its columns: first, second, and hard if it has one."""
    min_span: PositiveInt = 16
    """Fewest tokens of a span, where the document has as many."""
    max_span: PositiveInt = 48
    """Most tokens of a span."""
    max_gap: NonNegativeInt = 64
    """Most tokens between the two spans of a pair."""
    overlap: bool = False
    """Whether the two spans may overlap; where a document has no room beside the first, they do."""
    mask_rate: OpenFraction = 0.3
    """Share of each text's tokens hidden, with views=mask."""
    projection_dim: PositiveInt | None = None
    """Width of a two-layer network between the text vectors and the loss, thrown away afterwards; none: the vectors."""

    @model_validator(mode="after")
    def check_spans(self):
        if self.min_span > self.max_span:
            raise ValueError(f"shortest {self.min_span} is more than longest {self.max_span}")
        if (self.views == "pairs") != (self.pairs is not None):
            raise ValueError("views=pairs and pairs.files (or hub, or wheel) go together")
        return self

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raises ConfigError when the rest of the configuration leaves nothing to learn."""
        if self.views == "dropout" and dropout == 0:
            raise ConfigError("objective.views: dropout makes two views of a text by dropout; set dropout=0.1, say")
        if self.views == "span" and self.max_span > max_length - 2:
            raise ConfigError(
                f"objective.max_span: {self.max_span} tokens and two special ones do not fit max_length={max_length}"
            )


class PairDataset:
    """What steps are made of: pairs of texts, drawn from the shards' pieces or from a table."""

    def __init__(self, config: Views, shards: Shards, tokenizer_folder: Path, masking: Masking | None = None):
        """masking: how both texts are hidden; none: they are not."""
        self.config, self.shards, self.masking = config, shards, masking
        self.table: PairTable | None = read_pairs(config.pairs, tokenizer_folder) if config.pairs else None

    def __len__(self) -> int:
        return len(self.shards.pieces if self.table is None else self.table)

    def warning(self) -> str:
        """What a person should know of this text before it is learned from; mostly nothing."""
        if self.config.views != "span":
            return ""
        sizes = np.diff(self.shards.documents, prepend=0)
        document = np.searchsorted(self.shards.documents, self.shards.pieces[:, 0], side="right")
        short = float((sizes[document] < 2 * self.config.min_span).mean())
        return (
            ""
            if short < 0.5
            else (
                f"{short:.0%} of the text stands in documents too short for two spans of"
                f" objective.min_span={self.config.min_span} beside each other; such texts are better"
                " served by objective.name=mlm"
            )
        )

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Packed rows, whose documents are the texts, pair by pair; `keys` int64 (pairs, texts of a pair), the same for
        texts not to be held against each other; and where texts are hidden, `places` and `targets` as in masked language
        modelling.
        """
        drawn = [self.sample_pair(number, generator) for number, generator in zip(indices, generators)]
        special, size = self.shards.special_ids, self.shards.max_length
        texts = [add_special_tokens(text, special, size) for pair, _ in drawn for text in pair]
        shown, hidden = texts, []
        if self.masking:
            kinds = len(texts) // len(drawn)
            shown, hidden = zip(
                *(
                    mask_tokens(self.masking, text, np.zeros(len(text)), self.shards, generators[number // kinds])
                    for number, text in enumerate(texts)
                )
            )
        inputs, at = pack_texts(list(shown), size, special["pad"])
        inputs["keys"] = np.array([keys for _, keys in drawn], np.int64)
        if self.masking:
            hidden = np.concatenate(hidden)
            inputs |= {"places": at[hidden], "targets": np.concatenate(texts)[hidden]}
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, len(at))

    def sample_pair(self, index: int, generator: np.random.Generator) -> tuple[list[np.ndarray], list[int]]:
        """(the texts of one pair, token ids without special ones; their keys)."""
        if self.table is not None:
            pair = self.table[index]
            return pair, [hash_tokens(text) for text in pair]
        start, size = self.shards.pieces[index]
        if self.config.views != "span":
            text = self.shards.tokens[start : start + size]
            return [text, text], [hash_tokens(text)] * 2
        document = int(np.searchsorted(self.shards.documents, start, side="right"))
        begin = int(self.shards.documents[document - 1]) if document else 0
        first, second = sample_spans(int(self.shards.documents[document]) - begin, self.config, generator)
        return [self.shards.tokens[begin + span.start : begin + span.stop] for span in (first, second)], [document] * 2


def sample_spans(document_length: int, config: Views, generator: np.random.Generator) -> tuple[slice, slice]:
    """Two stretches of a document of `document_length` tokens: lengths and places uniform, the second within reach of the first."""
    lengths = np.minimum(generator.integers(config.min_span, config.max_span + 1, size=2), document_length)
    first = int(generator.integers(0, document_length - lengths[0] + 1))
    earliest = max(0, first - config.max_gap - int(lengths[1]))
    latest = min(document_length - int(lengths[1]), first + int(lengths[0]) + config.max_gap)
    beside = [range(earliest, first - int(lengths[1]) + 1), range(first + int(lengths[0]), latest + 1)]
    room = sum(map(len, beside))
    if config.overlap or not room:
        second = int(generator.integers(earliest, latest + 1))
    else:
        place = int(generator.integers(0, room))
        second = beside[0][place] if place < len(beside[0]) else beside[1][place - len(beside[0])]
    return slice(first, first + int(lengths[0])), slice(second, second + int(lengths[1]))


def hash_tokens(ids: np.ndarray) -> int:
    """The same number for the same tokens."""
    return int.from_bytes(
        hashlib.blake2b(ids.astype(np.int64).tobytes(), digest_size=8).digest(), "little", signed=True
    )
