"""Test texts of tasks, and which documents hold them: whole, or a run of words in common (Brown et al. 2020, app. C)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from data import cluster
from data.clean import clean
from data.config import Corpus, TaskFile
from data.derived import derive, manifest
from data.words import Words, compared
from engine.config import load

BITS = 27  # of the table that says of most windows at once that no test text holds them


def index(corpus: Corpus) -> Path:
    """The folder with the hashes of all test texts that the corpus is held against."""
    config = corpus.decontaminate
    files = [load(TaskFile, [path]) for path in config.tasks]
    tasks = [file.task for file in files]

    def make(folder: Path) -> dict:
        import daft
        import pyarrow

        cluster.start(corpus)
        texts, counts = [], []
        for file in files:
            own = [clean("\n".join(example.texts), corpus.clean) for example in file.read()["test"]]
            counts.append(len(own))
            texts += own
        plain = daft.from_pydict({"text": texts}).select(compared(daft.col("text"))).to_arrow()["text"].combine_chunks()
        words = Words.of(plain.cast(pyarrow.large_string()))
        lengths = words.counts(len(texts))
        long, long_at = words.windows(config.words)
        first = np.searchsorted(words.text, np.arange(len(texts)))
        short = np.flatnonzero((lengths >= config.shortest) & (lengths < config.words))
        whole = np.concatenate([words.window_at(first[short][lengths[short] == size], size)
                                for size in range(config.shortest, config.words)] or [np.zeros(0, np.uint64)])
        short = np.concatenate([short[lengths[short] == size] for size in range(config.shortest, config.words)] or [short])
        hashes, owner = np.concatenate([long, whole]), np.concatenate([words.text[long_at], short])
        # Sorted by hash, and a text that repeats itself there once for each hash.
        order = np.lexsort((owner, hashes))
        hashes, owner = hashes[order], owner[order]
        new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owner) != 0))[:len(hashes)]
        hashes, owner = hashes[new], owner[new]
        np.save(folder / "hashes.npy", hashes)
        np.save(folder / "owner.npy", owner)
        # A short text is looked at where its first words stand.
        np.save(folder / "anchors.npy", np.unique(words.window_at(first[short], config.shortest)))
        np.save(folder / "sizes.npy", np.unique(lengths[short]))
        distinct = np.bincount(owner, minlength=len(texts))
        np.save(folder / "distinct.npy", distinct)
        ends = np.cumsum(counts)
        return {"tasks": [{"name": task.name, "test_texts": count, "too_short": int((distinct[end - count:end] == 0).sum())}
                          for task, count, end in zip(tasks, counts, ends)], "words": config.words,
                "shortest": config.shortest}

    return derive("contamination", "-".join(task.name for task in tasks),
                  {"tasks": [file.identity() for file in files], "words": config.words,
                   "shortest": config.shortest, "clean": corpus.clean.model_dump(), "version": 2}, make, quiet=True)


class Finder:
    """Which test texts stand in a batch of documents."""

    def __init__(self, folder: Path):
        told = manifest(folder)
        self.words, self.shortest = told["words"], told["shortest"]
        self.hashes, self.owner, self.anchors, self.sizes, self.distinct = (
            np.load(folder / f"{name}.npy") for name in ("hashes", "owner", "anchors", "sizes", "distinct"))
        self.table = np.zeros(2**BITS // 8, np.uint8)
        for hashes in (self.hashes, self.anchors):
            np.bitwise_or.at(self.table, hashes >> np.uint64(64 - BITS + 3), self.bit(hashes))

    @staticmethod
    def bit(hashes: np.ndarray) -> np.ndarray:
        """uint8: the bit of its byte in the table that stands for a hash."""
        return np.uint8(1) << ((hashes >> np.uint64(64 - BITS)) & np.uint64(7)).astype(np.uint8)

    def known(self, hashes: np.ndarray, among: np.ndarray) -> np.ndarray:
        """int64: the places in `hashes` of those that are in `among`, which is sorted."""
        maybe = np.flatnonzero(self.table[hashes >> np.uint64(64 - BITS + 3)] & self.bit(hashes))
        at = np.searchsorted(among, hashes[maybe])
        return maybe[among[np.minimum(at, len(among) - 1)] == hashes[maybe]] if len(among) else maybe[:0]

    def find(self, words: Words) -> dict[int, list[int]]:
        """{document of the batch: [2 x test text, + 1 where all of it was found]}."""
        hashes, at = words.windows(self.words)
        found = self.known(hashes, self.hashes)
        hits = [(words.text[at[found]], hashes[found])]
        if len(self.sizes):
            hashes, at = words.windows(self.shortest)
            places = at[self.known(hashes, self.anchors)]
            for size in self.sizes:
                fits = places[places + size <= len(words.hashes)]
                fits = fits[words.text[fits] == words.text[fits + size - 1]]
                hashes = words.window_at(fits, int(size))
                found = self.known(hashes, self.hashes)
                hits.append((words.text[fits[found]], hashes[found]))
        document, hashes = (np.concatenate(column) for column in zip(*hits))
        result: dict[int, list[int]] = {}
        for number in np.unique(document):
            own = np.unique(hashes[document == number])
            left, right = (np.searchsorted(self.hashes, own, side=side) for side in ("left", "right"))
            tests, times = np.unique(np.concatenate([self.owner[a:b] for a, b in zip(left, right)]), return_counts=True)
            result[int(number)] = [2 * int(test) + int(count == self.distinct[test])
                                   for test, count in zip(tests, times)]
        return result


@lru_cache(maxsize=1)
def finder(folder: str) -> Finder:
    """The finder of an index folder, made once in a process."""
    return Finder(Path(folder))
