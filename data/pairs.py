"""A table of pairs of texts, tokenised once: `out/pairs/NAME-FINGERPRINT/`, read by memory map."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from data.derived import derive, file_hash, manifest
from data.sources import Source, identity, name_of, rows, text_of
from data.tokenise import Tokeniser
from engine.errors import DataError

AT_ONCE = 10_000


class PairSource(Source):
    """A table of pairs of texts."""

    first: str = "first"
    """The column of a text."""
    second: str = "second"
    """The column of the text that belongs to it."""
    hard: str | None = None
    """A column of texts that are easily taken for the second and are not."""


class Pairs:
    """The pairs in a folder that `read` made."""

    def __init__(self, folder: Path):
        told = manifest(folder)
        self.texts = told["texts"]
        self.tokens = np.memmap(folder / "tokens.bin", np.uint32, "r")
        self.ends = np.memmap(folder / "ends.bin", np.int64, "r")

    def __len__(self) -> int:
        return len(self.ends) // self.texts

    def __getitem__(self, number: int) -> list[np.ndarray]:
        """The token ids of a pair's texts, without special tokens."""
        first = number * self.texts
        bounds = [int(self.ends[first - 1]) if first else 0, *self.ends[first:first + self.texts].tolist()]
        return [self.tokens[start:end] for start, end in zip(bounds, bounds[1:])]


def read(source: PairSource, tokenizer: Path) -> Pairs:
    """The pairs of a table. Raises DataError naming the row and column that hold no text, or when there are no rows."""
    columns = [source.first, source.second, *([source.hard] if source.hard else [])]
    where = name_of(source)

    def texts():
        for number, row in enumerate(rows(source), 1):
            for column in columns:
                text = text_of(row, column, where)
                if not text.strip():
                    raise DataError(f"{where} row {number}: no text in column {column!r}")
                yield text

    def make(folder: Path) -> dict:
        tokeniser, waiting, total = Tokeniser(tokenizer), texts(), 0
        with open(folder / "tokens.bin", "wb") as tokens, open(folder / "ends.bin", "wb") as ends:
            while some := list(islice(waiting, AT_ONCE)):
                ids, bounds = tokeniser.encode(some)
                tokens.write(ids.astype(np.uint32).tobytes())
                ends.write((bounds[1:] + total).astype(np.int64).tobytes())
                total += len(ids)
        if not total:
            raise DataError(f"{where}: no pairs in it")
        return {"texts": len(columns), "tokens": total}

    return Pairs(derive("pairs", "pairs", {"source": identity(source), "version": 1,
                                           "tokenizer": file_hash(tokenizer / "tokenizer.json")}, make))
