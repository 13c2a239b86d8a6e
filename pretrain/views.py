"""Pairs of texts that mean the same: two views of a text nobody has labelled, or the columns of a table."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from data.batches import framed, laid_out
from data.pairs import Pairs, PairSource, read as read_pairs
from data.shards import Shards
from engine.config import Section
from engine.errors import ConfigError
from engine.gradient import Batch
from pretrain.masking import Masking, hide

Rate = Annotated[float, Field(gt=0, lt=1)]


class Views(Section):
    """What the two texts of a pair are."""

    views: Literal["span", "mask", "dropout", "pairs"] = "span"
    """span: two stretches of one document (Giorgi et al. 2021); mask: one text hidden twice; dropout: one text under two
    dropout masks (Gao et al. 2021), which needs dropout; pairs: columns of your own table."""
    pairs: PairSource | None = None
    """With views=pairs, where the table is (files, hub or wheel) and its columns: first, second, and hard if it has one."""
    shortest: PositiveInt = 16
    """Fewest tokens of a span, where the document has as many."""
    longest: PositiveInt = 48
    """Most tokens of a span."""
    reach: NonNegativeInt = 64
    """Most tokens between the two spans of a pair."""
    overlap: bool = False
    """Whether the two spans may overlap; where a document has no room beside the first, they do."""
    mask_rate: Rate = 0.3
    """Share of each text's tokens hidden, with views=mask."""
    projection: PositiveInt | None = None
    """Width of a two-layer network between the text vectors and the loss, thrown away afterwards; none: the vectors."""

    @model_validator(mode="after")
    def spans_fit(self):
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        if (self.views == "pairs") != (self.pairs is not None):
            raise ValueError("views=pairs and pairs.files (or hub, or wheel) go together")
        return self

    def suits(self, batch_size: int, dropout: float, length: int) -> None:
        """Raises ConfigError when the rest of the configuration leaves nothing to learn."""
        if self.views == "dropout" and dropout == 0:
            raise ConfigError("objective.views: dropout makes two views of a text by dropout; set dropout=0.1, say")
        if self.views == "span" and self.longest > length - 2:
            raise ConfigError(f"objective.longest: {self.longest} tokens and two special ones do not fit length={length}")


class Examples:
    """What steps are made of: pairs of texts, drawn from the shards' pieces or from a table."""

    def __init__(self, config: Views, shards: Shards, tokenizer: Path, masking: Masking | None = None):
        """masking: how both texts are hidden; none: they are not."""
        self.config, self.shards, self.masking = config, shards, masking
        self.table: Pairs | None = read_pairs(config.pairs, tokenizer) if config.pairs else None

    def __len__(self) -> int:
        return len(self.shards.pieces if self.table is None else self.table)

    def hint(self) -> str:
        """What a person should know of this text before it is learned from; mostly nothing."""
        if self.config.views != "span":
            return ""
        sizes = np.diff(self.shards.documents, prepend=0)
        document = np.searchsorted(self.shards.documents, self.shards.pieces[:, 0], side="right")
        short = float((sizes[document] < 2 * self.config.shortest).mean())
        return "" if short < 0.5 else (f"{short:.0%} of the text stands in documents too short for two spans of"
                                       f" objective.shortest={self.config.shortest} beside each other; such texts are better"
                                       " served by objective.name=mlm")

    def collate(self, numbers: list[int], generators: list[np.random.Generator]) -> Batch:
        """Packed rows, whose documents are the texts, pair by pair; `keys` int64 (pairs, texts of a pair), the same for
        texts not to be held against each other; and where texts are hidden, `places` and `targets` as in masked language
        modelling."""
        drawn = [self.draw(number, generator) for number, generator in zip(numbers, generators)]
        special, size = self.shards.special, self.shards.length
        texts = [framed(text, special, size) for pair, _ in drawn for text in pair]
        shown, hidden = texts, []
        if self.masking:
            kinds = len(texts) // len(drawn)
            shown, hidden = zip(*(hide(self.masking, text, np.zeros(len(text)), self.shards, generators[number // kinds])
                                  for number, text in enumerate(texts)))
        inputs, at = laid_out(list(shown), size, special["pad"])
        inputs["keys"] = np.array([keys for _, keys in drawn], np.int64)
        if self.masking:
            hidden = np.concatenate(hidden)
            inputs |= {"places": at[hidden], "targets": np.concatenate(texts)[hidden]}
        return Batch({name: torch.from_numpy(array) for name, array in inputs.items()}, len(at))

    def draw(self, number: int, generator: np.random.Generator) -> tuple[list[np.ndarray], list[int]]:
        """(the texts of one pair, token ids without special ones; their keys)."""
        if self.table is not None:
            pair = self.table[number]
            return pair, [key_of(text) for text in pair]
        start, size = self.shards.pieces[number]
        if self.config.views != "span":
            text = self.shards.tokens[start:start + size]
            return [text, text], [key_of(text)] * 2
        document = int(np.searchsorted(self.shards.documents, start, side="right"))
        begin = int(self.shards.documents[document - 1]) if document else 0
        first, second = spans(int(self.shards.documents[document]) - begin, self.config, generator)
        return [self.shards.tokens[begin + span.start:begin + span.stop] for span in (first, second)], [document] * 2


def spans(size: int, config: Views, generator: np.random.Generator) -> tuple[slice, slice]:
    """Two stretches of a document of `size` tokens: lengths and places uniform, the second within reach of the first."""
    lengths = np.minimum(generator.integers(config.shortest, config.longest + 1, size=2), size)
    first = int(generator.integers(0, size - lengths[0] + 1))
    earliest = max(0, first - config.reach - int(lengths[1]))
    latest = min(size - int(lengths[1]), first + int(lengths[0]) + config.reach)
    beside = [range(earliest, first - int(lengths[1]) + 1), range(first + int(lengths[0]), latest + 1)]
    room = sum(map(len, beside))
    if config.overlap or not room:
        second = int(generator.integers(earliest, latest + 1))
    else:
        place = int(generator.integers(0, room))
        second = beside[0][place] if place < len(beside[0]) else beside[1][place - len(beside[0])]
    return slice(first, first + int(lengths[0])), slice(second, second + int(lengths[1]))


def key_of(text: np.ndarray) -> int:
    """The same number for the same tokens."""
    return int.from_bytes(hashlib.blake2b(text.astype(np.int64).tobytes(), digest_size=8).digest(), "little", signed=True)
