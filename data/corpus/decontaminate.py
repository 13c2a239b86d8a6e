"""Test texts of tasks, and which documents hold them: whole, or a run of words in common (Brown et al. 2020, app. C)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from data.cache import get_or_build, read_manifest
from data.corpus import runner
from data.corpus.clean import clean_text
from data.corpus.config import Corpus
from data.ngrams import WordHashes, normalize_text
from data.tasks.task import TaskFile
from engine.config.loader import load_config

BITMAP_BITS = 27  # of the table that says of most windows at once that no test text holds them


def build_index(corpus: Corpus) -> Path:
    """The folder with the hashes of all test texts that the corpus is held against."""
    config = corpus.decontaminate
    files = [load_config(TaskFile, [path]) for path in config.tasks]
    tasks = [file.task for file in files]

    def make(folder: Path) -> dict:
        import daft
        import pyarrow

        runner.start_runner(corpus)
        texts, counts = [], []
        for file in files:
            own = [clean_text("\n".join(example.texts), corpus.clean) for example in file.load_splits()["test"]]
            counts.append(len(own))
            texts += own
        plain = (
            daft.from_pydict({"text": texts})
            .select(normalize_text(daft.col("text")))
            .to_arrow()["text"]
            .combine_chunks()
        )
        words = WordHashes.from_arrow(plain.cast(pyarrow.large_string()))
        lengths = words.words_per_text(len(texts))
        long, long_at = words.hash_ngrams(config.ngram)
        first = np.searchsorted(words.text_ids, np.arange(len(texts)))
        short = np.flatnonzero((lengths >= config.min_words) & (lengths < config.ngram))
        whole = np.concatenate(
            [
                words.hash_ngrams_at(first[short][lengths[short] == size], size)
                for size in range(config.min_words, config.ngram)
            ]
            or [np.zeros(0, np.uint64)]
        )
        short = np.concatenate(
            [short[lengths[short] == size] for size in range(config.min_words, config.ngram)] or [short]
        )
        hashes, owner = np.concatenate([long, whole]), np.concatenate([words.text_ids[long_at], short])
        # Sorted by hash, and a text that repeats itself there once for each hash.
        order = np.lexsort((owner, hashes))
        hashes, owner = hashes[order], owner[order]
        new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owner) != 0))[: len(hashes)]
        hashes, owner = hashes[new], owner[new]
        np.save(folder / "hashes.npy", hashes)
        np.save(folder / "owner.npy", owner)
        # A short text is looked at where its first words stand.
        np.save(folder / "anchors.npy", np.unique(words.hash_ngrams_at(first[short], config.min_words)))
        np.save(folder / "sizes.npy", np.unique(lengths[short]))
        distinct = np.bincount(owner, minlength=len(texts))
        np.save(folder / "distinct.npy", distinct)
        ends = np.cumsum(counts)
        return {
            "tasks": [
                {"name": task.name, "num_test_texts": count, "too_short": int((distinct[end - count : end] == 0).sum())}
                for task, count, end in zip(tasks, counts, ends)
            ],
            "words": config.ngram,
            "shortest": config.min_words,
        }

    return get_or_build(
        "contamination",
        "-".join(task.name for task in tasks),
        {
            "tasks": [file.fingerprint_inputs() for file in files],
            "words": config.ngram,
            "shortest": config.min_words,
            "clean": corpus.clean.model_dump(),
            "version": 2,
        },
        make,
        quiet=True,
    )


class NgramIndex:
    """Which test texts stand in a batch of documents."""

    def __init__(self, folder: Path):
        told = read_manifest(folder)
        self.ngram_size, self.min_words = told["words"], told["shortest"]
        self.hashes, self.text_ids, self.anchors, self.short_lengths, self.num_distinct = (
            np.load(folder / f"{name}.npy") for name in ("hashes", "owner", "anchors", "sizes", "distinct")
        )
        self.bitmap = np.zeros(2**BITMAP_BITS // 8, np.uint8)
        for hashes in (self.hashes, self.anchors):
            np.bitwise_or.at(self.bitmap, hashes >> np.uint64(64 - BITMAP_BITS + 3), self.bit_mask(hashes))

    @staticmethod
    def bit_mask(hashes: np.ndarray) -> np.ndarray:
        """uint8: the bit of its byte in the table that stands for a hash."""
        return np.uint8(1) << ((hashes >> np.uint64(64 - BITMAP_BITS)) & np.uint64(7)).astype(np.uint8)

    def lookup(self, hashes: np.ndarray, sorted_hashes: np.ndarray) -> np.ndarray:
        """int64: the places in `hashes` of those that are in `sorted_hashes`, which is sorted."""
        maybe = np.flatnonzero(self.bitmap[hashes >> np.uint64(64 - BITMAP_BITS + 3)] & self.bit_mask(hashes))
        at = np.searchsorted(sorted_hashes, hashes[maybe])
        return (
            maybe[sorted_hashes[np.minimum(at, len(sorted_hashes) - 1)] == hashes[maybe]]
            if len(sorted_hashes)
            else maybe[:0]
        )

    def find(self, words: WordHashes) -> dict[int, list[int]]:
        """{document of the batch: [2 x test text, + 1 where all of it was found]}."""
        hashes, at = words.hash_ngrams(self.ngram_size)
        found = self.lookup(hashes, self.hashes)
        hits = [(words.text_ids[at[found]], hashes[found])]
        if len(self.short_lengths):
            hashes, at = words.hash_ngrams(self.min_words)
            places = at[self.lookup(hashes, self.anchors)]
            for size in self.short_lengths:
                fits = places[places + size <= len(words.hashes)]
                fits = fits[words.text_ids[fits] == words.text_ids[fits + size - 1]]
                hashes = words.hash_ngrams_at(fits, int(size))
                found = self.lookup(hashes, self.hashes)
                hits.append((words.text_ids[fits[found]], hashes[found]))
        document, hashes = (np.concatenate(column) for column in zip(*hits))
        result: dict[int, list[int]] = {}
        for number in np.unique(document):
            own = np.unique(hashes[document == number])
            left, right = (np.searchsorted(self.hashes, own, side=side) for side in ("left", "right"))
            tests, times = np.unique(
                np.concatenate([self.text_ids[a:b] for a, b in zip(left, right)]), return_counts=True
            )
            result[int(number)] = [
                2 * int(test) + int(count == self.num_distinct[test]) for test, count in zip(tests, times)
            ]
        return result


@lru_cache(maxsize=1)
def load_index(folder: str) -> NgramIndex:
    """The finder of an index folder, made once in a process."""
    return NgramIndex(Path(folder))


def find_test_texts(text, index_folder: str):
    """A Daft expression of the test texts found in a text, as `contamination.Finder.find` numbers them."""
    import daft

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.int64()))
    def found(texts):
        import pyarrow

        from data.ngrams import WordHashes

        array = texts.to_arrow()
        array = array.combine_chunks() if isinstance(array, pyarrow.ChunkedArray) else array
        hits = load_index(index_folder).find(WordHashes.from_arrow(array.cast(pyarrow.large_string())))
        return daft.Series.from_pylist(
            [hits.get(number, []) for number in range(len(array))], dtype=daft.DataType.list(daft.DataType.int64())
        )

    return found(text)
