"""A table of text pairs, tokenized once into `out/pairs/NAME-FINGERPRINT/` and memory-mapped."""

from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from data.cache import file_hash, get_or_build, read_manifest
from data.sources.source import Source, display_name, fingerprint_inputs, iter_located_rows
from data.sources.values import get_text, missing_value_error
from data.tokens.encode import CachedTokenizer
from engine.errors import DataError

BATCH_SIZE = 10_000


class PairSource(Source):
    """A table of text pairs."""

    anchor: str = "anchor"
    """Column of the anchor text."""
    positive: str = "positive"
    """Column of the positive text."""
    negative: str | None = None
    """Column of the hard negative."""


class PairTable:
    """The tokenized pairs in a folder built by `load_pairs`."""

    def __init__(self, folder: Path):
        self.texts_per_pair = read_manifest(folder)["texts_per_pair"]
        self.tokens = np.memmap(folder / "tokens.bin", np.uint32, "r")
        self.text_ends = np.memmap(folder / "ends.bin", np.int64, "r")

    def __len__(self) -> int:
        return len(self.text_ends) // self.texts_per_pair

    def __getitem__(self, index: int) -> list[np.ndarray]:
        """Return the token ids of a pair's texts, without special tokens."""
        first = index * self.texts_per_pair
        start = int(self.text_ends[first - 1]) if first else 0
        bounds = [start, *self.text_ends[first : first + self.texts_per_pair].tolist()]
        return [self.tokens[start:end] for start, end in pairwise(bounds)]


def load_pairs(source: PairSource, tokenizer_folder: Path) -> PairTable:
    """Tokenize a table of pairs. Raises DataError naming the row and column without text, or when there are no rows."""
    columns = [source.anchor, source.positive, *([source.negative] if source.negative else [])]
    location = display_name(source)

    def iter_texts():
        for row_location, row in iter_located_rows(source):
            for column in columns:
                text = get_text(row, column, row_location)
                if not text.strip():
                    raise missing_value_error(row_location, "text", column)
                yield text

    def build(folder: Path) -> dict:
        tokenizer, texts, num_tokens = CachedTokenizer(tokenizer_folder), iter_texts(), 0
        with open(folder / "tokens.bin", "wb") as tokens, open(folder / "ends.bin", "wb") as ends:
            while batch := list(islice(texts, BATCH_SIZE)):
                ids, bounds = tokenizer.encode(batch)
                tokens.write(ids.astype(np.uint32).tobytes())
                ends.write((bounds[1:] + num_tokens).astype(np.int64).tobytes())
                num_tokens += len(ids)
        if not num_tokens:
            raise DataError(f"{location}: no pairs")
        return {"texts_per_pair": len(columns), "tokens": num_tokens}

    tokenizer_hash = file_hash(tokenizer_folder / "tokenizer.json")
    inputs = {"source": fingerprint_inputs(source), "version": 2, "tokenizer": tokenizer_hash}
    return PairTable(get_or_build("pairs", "pairs", inputs, build))
