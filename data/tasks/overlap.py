"""Which texts stand in others: the same text, or nearly. What test rows must not do in the labels learned from.

A text nearly stands in another when that one holds half of its runs of eight words (the containment of Broder 1997),
or, of a text of five to seven words, all of them in a row. Fewer words stand everywhere: such a text only counts where
it is the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from data.ngrams import WordHashes
from data.tasks.task import normalize

NGRAM_SIZE, MIN_WORDS, MIN_CONTAINMENT = 8, 5, 0.5
CHUNK_CHARS = 2**20  # characters of the others looked at together
NONE, NEAR, EXACT = 0, 1, 2
# A character of a script written without spaces is a word of its own; the vowel signs of India's are part of the word.
UNSPACED_SCRIPTS = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD_PATTERN = re.compile(rf"[{UNSPACED_SCRIPTS}]|(?:(?![{UNSPACED_SCRIPTS}_])[\w\u0900-\u0dff])+")


def extract_words(texts: list[str]) -> WordHashes:
    """The words of texts; case and punctuation do not count."""
    import pyarrow

    plain = [" ".join(WORD_PATTERN.findall(unicodedata.normalize("NFKC", text).casefold())) for text in texts]
    return WordHashes.from_arrow(pyarrow.array(plain, pyarrow.large_string()))


class OverlapIndex:
    """Texts looked for in others. `found` uint8 (texts,): NONE, NEAR or EXACT; `where` a text each was found in."""

    def __init__(self, texts: list[str]):
        self.matches, self.matched_texts = np.zeros(len(texts), np.uint8), {}
        self.exact_index: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            self.exact_index.setdefault(normalize((text,)), []).append(place)
        words = extract_words(texts)
        lengths = words.words_per_text(len(texts))
        self.too_short, self.ngram_index = lengths < MIN_WORDS, {}
        self.ngram_counts = np.ones(len(texts), np.int64)
        for size in range(MIN_WORDS, NGRAM_SIZE + 1):
            hashes, at = words.hash_ngrams(size)
            owner = words.text_ids[at]
            own = lengths[owner] >= NGRAM_SIZE if size == NGRAM_SIZE else lengths[owner] == size
            if own.any():
                # Sorted by hash; a text that repeats itself stands there once for each run.
                self.ngram_index[size] = hashes, owner = unique_pairs(hashes[own], owner[own])
                counts = np.bincount(owner, minlength=len(texts))
                self.ngram_counts[counts > 0] = counts[counts > 0]

    def search(self, other_texts: Iterable[str]) -> int:
        """Look in the others, some at a time; returns how many there were."""
        batch, held, count = [], 0, 0
        for text in other_texts:
            batch.append(text)
            held, count = held + len(text), count + 1
            if held > CHUNK_CHARS:
                self.search_batch(batch)
                batch, held = [], 0
        self.search_batch(batch)
        return count

    def search_batch(self, other_texts: list[str]) -> None:
        """Look in a few texts."""
        for text in other_texts:
            self.record_match(self.exact_index.get(normalize((text,)), []), EXACT, text)
        words = extract_words(other_texts)
        for size, (known, owner) in self.ngram_index.items():
            hashes, at = words.hash_ngrams(size)
            there = np.searchsorted(known, hashes)
            hit = known[np.minimum(there, len(known) - 1)] == hashes
            hashes, text = unique_pairs(hashes[hit], words.text_ids[at[hit]])
            first, last = (np.searchsorted(known, hashes, side=side) for side in ("left", "right"))
            times = last - first
            # Every text that holds a run, beside every other that does.
            inside = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            owners = owner[np.repeat(first, times) + inside]
            pairs, shared = np.unique(np.repeat(text, times) * len(self.matches) + owners, return_counts=True)
            for pair in pairs[shared >= MIN_CONTAINMENT * self.ngram_counts[pairs % len(self.matches)]].tolist():
                self.record_match([pair % len(self.matches)], NEAR, other_texts[pair // len(self.matches)])

    def record_match(self, indices: list[int], kind: int, matched_text: str) -> None:
        """These texts stand in `matched_text`."""
        for place in indices:
            if self.matches[place] < kind:
                self.matches[place], self.matched_texts[place] = kind, matched_text


def unique_pairs(hashes: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (hash, owner) pairs, each once, sorted by hash."""
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owner) != 0))[: len(hashes)]
    return hashes[new], owner[new]
