"""A table of pairs of texts, tokenised once: `out/pairs/NAME-FINGERPRINT/`, read by memory map."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from data.cache import file_hash, get_or_build, read_manifest
from data.sources.source import Source, display_name, fingerprint_inputs, get_text, iter_rows
from data.tokens.encode import CachedTokenizer
from engine.errors import DataError

BATCH_SIZE = 10_000


class PairSource(Source):
    """A table of pairs of texts."""

    anchor: str = "anchor"
    """The column of a text."""
    positive: str = "positive"
    """The column of the text that belongs to it."""
    negative: str | None = None
    """A column of texts that are easily taken for the second and are not."""


class PairTable:
    """The pairs in a folder that `load_pairs` made."""

    def __init__(self, folder: Path):
        told = read_manifest(folder)
        self.texts_per_pair = told["texts"]
        self.tokens = np.memmap(folder / "tokens.bin", np.uint32, "r")
        self.text_ends = np.memmap(folder / "ends.bin", np.int64, "r")

    def __len__(self) -> int:
        return len(self.text_ends) // self.texts_per_pair

    def __getitem__(self, index: int) -> list[np.ndarray]:
        """The token ids of a pair's texts, without special tokens."""
        first = index * self.texts_per_pair
        bounds = [
            int(self.text_ends[first - 1]) if first else 0,
            *self.text_ends[first : first + self.texts_per_pair].tolist(),
        ]
        return [self.tokens[start:end] for start, end in zip(bounds, bounds[1:])]


def load_pairs(source: PairSource, tokenizer_folder: Path) -> PairTable:
    """The pairs of a table. Raises DataError naming the row and column that hold no text, or when there are no rows."""
    columns = [source.anchor, source.positive, *([source.negative] if source.negative else [])]
    where = display_name(source)

    def texts():
        for number, row in enumerate(iter_rows(source), 1):
            for column in columns:
                text = get_text(row, column, where)
                if not text.strip():
                    raise DataError(f"{where} row {number}: no text in column {column!r}")
                yield text

    def make(folder: Path) -> dict:
        tokeniser, waiting, total = CachedTokenizer(tokenizer_folder), texts(), 0
        with open(folder / "tokens.bin", "wb") as tokens, open(folder / "ends.bin", "wb") as ends:
            while some := list(islice(waiting, BATCH_SIZE)):
                ids, bounds = tokeniser.encode(some)
                tokens.write(ids.astype(np.uint32).tobytes())
                ends.write((bounds[1:] + total).astype(np.int64).tobytes())
                total += len(ids)
        if not total:
            raise DataError(f"{where}: no pairs in it")
        return {"texts": len(columns), "tokens": total}

    return PairTable(
        get_or_build(
            "pairs",
            "pairs",
            {
                "source": fingerprint_inputs(source),
                "version": 1,
                "tokenizer": file_hash(tokenizer_folder / "tokenizer.json"),
            },
            make,
        )
    )
