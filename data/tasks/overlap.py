"""Overlap of texts with other texts, such as test rows with training rows or with a pretraining corpus.

A text nearly occurs in another that contains half of its 8-grams of words (containment; Broder 1997) or, for a text of
five to seven words, all of them in a row. Shorter texts occur everywhere: only an exact match counts for them.
"""

import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from data.arrays import batch_by_characters
from data.ngrams import WordHashes
from data.tasks.splits import normalize

NGRAM_SIZE, MIN_WORDS, MIN_CONTAINMENT = 8, 5, 0.5
CHUNK_CHARS = 2**20  # characters searched together
NONE, NEAR, EXACT = 0, 1, 2
# A character of a script written without spaces is a word of its own; vowel signs of Indic scripts belong to the word.
UNSPACED_SCRIPTS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U000323af"
WORD_PATTERN = re.compile(rf"[{UNSPACED_SCRIPTS}]|(?:(?![{UNSPACED_SCRIPTS}_])[\w\u0900-\u0dff])+")


def extract_words(texts: list[str]) -> WordHashes:
    """Hash the words of texts, ignoring case and punctuation."""
    import pyarrow

    plain = [" ".join(WORD_PATTERN.findall(unicodedata.normalize("NFKC", text).casefold())) for text in texts]
    return WordHashes.from_arrow(pyarrow.array(plain, pyarrow.large_string()))


class OverlapIndex:
    """Texts to find in others: `matches` uint8 (texts,), NONE, NEAR or EXACT; `matched_texts` {index: other text}."""

    def __init__(self, texts: list[str]):
        self.matches, self.matched_texts = np.zeros(len(texts), np.uint8), {}
        self.exact_index: dict[str, list[int]] = {}
        for index, text in enumerate(texts):
            self.exact_index.setdefault(normalize((text,)), []).append(index)
        words = extract_words(texts)
        lengths = words.words_per_text(len(texts))
        self.too_short, self.ngram_index = lengths < MIN_WORDS, {}
        self.ngram_counts = np.ones(len(texts), np.int64)
        for size in range(MIN_WORDS, NGRAM_SIZE + 1):
            hashes, starts = words.hash_ngrams(size)
            owner = words.text_ids[starts]
            is_indexed = lengths[owner] >= NGRAM_SIZE if size == NGRAM_SIZE else lengths[owner] == size
            if is_indexed.any():
                self.ngram_index[size] = hashes, owner = unique_pairs(hashes[is_indexed], owner[is_indexed])
                counts = np.bincount(owner, minlength=len(texts))
                self.ngram_counts[counts > 0] = counts[counts > 0]

    def search(self, other_texts: Iterable[str]) -> int:
        """Search other texts for the indexed ones; return how many were searched."""
        count = 0
        for batch in batch_by_characters(other_texts, str, CHUNK_CHARS):
            self.search_batch(batch)
            count += len(batch)
        return count

    def search_batch(self, other_texts: list[str]) -> None:
        """Search a few texts."""
        for text in other_texts:
            self.record_match(self.exact_index.get(normalize((text,)), []), EXACT, text)
        words = extract_words(other_texts)
        for size, (known, owner) in self.ngram_index.items():
            hashes, starts = words.hash_ngrams(size)
            is_hit = known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes
            hashes, text = unique_pairs(hashes[is_hit], words.text_ids[starts[is_hit]])
            first, last = (np.searchsorted(known, hashes, side=side) for side in ("left", "right"))
            times = last - first
            # Pair each other text with every indexed text that shares an n-gram with it.
            inside = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            owners = owner[np.repeat(first, times) + inside]
            pairs, shared = np.unique(np.repeat(text, times) * len(self.matches) + owners, return_counts=True)
            for pair in pairs[shared >= MIN_CONTAINMENT * self.ngram_counts[pairs % len(self.matches)]].tolist():
                self.record_match([pair % len(self.matches)], NEAR, other_texts[pair // len(self.matches)])

    def record_match(self, indices: list[int], kind: int, matched_text: str) -> None:
        """Record that the texts at `indices` occur in `matched_text`."""
        for index in indices:
            if self.matches[index] < kind:
                self.matches[index], self.matched_texts[index] = kind, matched_text


def unique_pairs(hashes: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct (hash, owner) pairs, sorted by hash."""
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    is_new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owner) != 0))[: len(hashes)]
    return hashes[is_new], owner[is_new]
