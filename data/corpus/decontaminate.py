"""Search for test texts of tasks in documents: as a whole, or by shared word n-grams (Brown et al. 2020, app. C)."""

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

BITMAP_BITS = 27  # of a hash: a bitmap of 16 MiB rules out most n-grams without a search
ARRAYS = ("hashes", "text_ids", "anchors", "short_lengths", "num_distinct")


def build_index(corpus: Corpus) -> Path:
    """Return the folder of the n-gram index of all test texts that the corpus must not contain."""
    config = corpus.decontaminate
    files = [load_config(TaskFile, [path]) for path in config.tasks]
    names = [file.task.name for file in files]
    sizes = {"ngram_size": config.ngram, "min_words": config.min_words}

    def build(folder: Path) -> dict:
        import daft
        import pyarrow

        runner.start_runner(corpus)
        splits = [file.load_splits()["test"] for file in files]
        texts = [clean_text("\n".join(example.texts), corpus.clean) for split in splits for example in split]
        normalized = daft.from_pydict({"text": texts}).select(normalize_text(daft.col("text"))).to_arrow()["text"]
        words = WordHashes.from_arrow(normalized.combine_chunks().cast(pyarrow.large_string()))
        arrays = hash_test_texts(words, len(texts), config.ngram, config.min_words)
        for name, array in zip(ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array)
        # The number of distinct n-grams is 0 for a test text that is too short.
        searched = np.split(arrays[-1] > 0, np.cumsum([len(split) for split in splits])[:-1])
        tasks = [
            {"name": name, "num_test_texts": len(part), "num_too_short": int((~part).sum())}
            for name, part in zip(names, searched, strict=True)
        ]
        return {"tasks": tasks, **sizes}

    inputs = {"tasks": [file.fingerprint_inputs() for file in files], "clean": corpus.clean.model_dump(), "version": 2}
    return get_or_build("contamination", "-".join(names), {**inputs, **sizes}, build, quiet=True)


def hash_test_texts(words: WordHashes, num_texts: int, ngram_size: int, min_words: int) -> tuple[np.ndarray, ...]:
    """Return the `ARRAYS` of an index.

    hashes: uint64 (n-grams,), sorted; a text shorter than `ngram_size` is one n-gram, unless it is below `min_words`.
    text_ids: int64 (n-grams,), the test text of each hash. anchors: uint64, hashes of the first `min_words` words of
    short texts. short_lengths: int64, their lengths. num_distinct: int64 (texts,), distinct n-grams of each text.
    """
    lengths = words.words_per_text(num_texts)
    long_hashes, long_starts = words.hash_ngrams(ngram_size)
    first = np.searchsorted(words.text_ids, np.arange(num_texts))
    short = [np.flatnonzero(lengths == size) for size in range(min_words, ngram_size)]
    short_hashes = [words.hash_ngrams_at(first[ids], min_words + at) for at, ids in enumerate(short)]
    short = np.concatenate([np.zeros(0, np.int64), *short])
    hashes = np.concatenate([long_hashes, *short_hashes])
    text_ids = np.concatenate([words.text_ids[long_starts], short])
    # Sorted by hash, without repetitions inside a text.
    order = np.lexsort((text_ids, hashes))
    hashes, text_ids = hashes[order], text_ids[order]
    is_new = np.append(True, (np.diff(hashes) != 0) | (np.diff(text_ids) != 0))[: len(hashes)]
    hashes, text_ids = hashes[is_new], text_ids[is_new]
    anchors = np.unique(words.hash_ngrams_at(first[short], min_words))
    return hashes, text_ids, anchors, np.unique(lengths[short]), np.bincount(text_ids, minlength=num_texts)


class NgramIndex:
    """Index of the n-grams of test texts, with the `ARRAYS` as attributes."""

    def __init__(self, folder: Path):
        manifest = read_manifest(folder)
        self.ngram_size, self.min_words = manifest["ngram_size"], manifest["min_words"]
        self.hashes, self.text_ids, self.anchors, self.short_lengths, self.num_distinct = (
            np.load(folder / f"{name}.npy") for name in ARRAYS
        )
        self.bitmap = np.zeros(2**BITMAP_BITS // 8, np.uint8)
        for hashes in (self.hashes, self.anchors):
            np.bitwise_or.at(self.bitmap, hashes >> np.uint64(64 - BITMAP_BITS + 3), self.bit_mask(hashes))

    @staticmethod
    def bit_mask(hashes: np.ndarray) -> np.ndarray:
        """Return uint8 masks: the bit of each hash inside its byte of the bitmap."""
        return np.uint8(1) << ((hashes >> np.uint64(64 - BITMAP_BITS)) & np.uint64(7)).astype(np.uint8)

    def lookup(self, hashes: np.ndarray, sorted_hashes: np.ndarray) -> np.ndarray:
        """Return int64 indices into `hashes` of those that occur in `sorted_hashes`."""
        maybe = np.flatnonzero(self.bitmap[hashes >> np.uint64(64 - BITMAP_BITS + 3)] & self.bit_mask(hashes))
        if not len(sorted_hashes):
            return maybe[:0]
        at = np.searchsorted(sorted_hashes, hashes[maybe])
        return maybe[sorted_hashes[np.minimum(at, len(sorted_hashes) - 1)] == hashes[maybe]]

    def find(self, words: WordHashes) -> dict[int, list[int]]:
        """Return {document of the batch: [2 x test text, + 1 if all of it was found]}."""
        hashes, starts = words.hash_ngrams(self.ngram_size)
        found = self.lookup(hashes, self.hashes)
        hits = [(words.text_ids[starts[found]], hashes[found])]
        if len(self.short_lengths):
            hashes, starts = words.hash_ngrams(self.min_words)
            starts = starts[self.lookup(hashes, self.anchors)]
            for size in self.short_lengths:
                fits = starts[starts + size <= len(words.hashes)]
                fits = fits[words.text_ids[fits] == words.text_ids[fits + size - 1]]
                hashes = words.hash_ngrams_at(fits, int(size))
                found = self.lookup(hashes, self.hashes)
                hits.append((words.text_ids[fits[found]], hashes[found]))
        documents, hashes = (np.concatenate(column) for column in zip(*hits, strict=True))
        result: dict[int, list[int]] = {}
        order = np.argsort(documents, kind="stable")
        numbers, starts = np.unique(documents[order], return_index=True)
        for document, found in zip(numbers, np.split(hashes[order], starts)[1:], strict=True):
            distinct = np.unique(found)
            left, right = (np.searchsorted(self.hashes, distinct, side=side) for side in ("left", "right"))
            ranges = [self.text_ids[start:end] for start, end in zip(left, right, strict=True)]
            tests, counts = np.unique(np.concatenate(ranges), return_counts=True)
            is_complete = counts == self.num_distinct[tests]
            result[int(document)] = (2 * tests + is_complete).tolist()
        return result


@lru_cache(maxsize=1)
def load_index(folder: str) -> NgramIndex:
    """Load the index of a folder, once per process."""
    return NgramIndex(Path(folder))


def find_test_texts(text, index_folder: str):
    """Return a Daft expression of the test texts in a text, with the numbers of `NgramIndex.find`."""
    import daft

    numbers = daft.DataType.list(daft.DataType.int64())

    @daft.func.batch(return_dtype=numbers)
    def matches(texts):
        import pyarrow

        array = texts.to_arrow()
        array = array.combine_chunks() if isinstance(array, pyarrow.ChunkedArray) else array
        found = load_index(index_folder).find(WordHashes.from_arrow(array.cast(pyarrow.large_string())))
        return daft.Series.from_pylist([found.get(number, []) for number in range(len(array))], dtype=numbers)

    return matches(text)
