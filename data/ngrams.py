"""Words in a row, as numbers: every window of n words of a batch of texts hashed at once, with numpy.

Texts come as `normalize_text` leaves them: lower case, words apart by one space, nothing else.
"""

from __future__ import annotations

import numpy as np

HASH_BASE, NGRAM_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that no byte is lost
CHUNK_WORDS = 2**18  # words hashed together: it takes some hundred bytes for each
MAX_WORD_BYTES = 4096  # a word's bytes beyond these count as if it began again
BYTE_HASHES = np.random.Generator(np.random.Philox(key=[0, 1])).integers(1, 2**63, 256, dtype=np.uint64) * np.uint64(2)
BYTE_HASHES |= np.uint64(1)
BYTE_HASHES[ord(" ")] = 0
HASH_BASE_POWERS = np.multiply.accumulate(np.concatenate([[np.uint64(1)], np.full(MAX_WORD_BYTES - 1, HASH_BASE)]))


def normalize_text(text):
    """A Daft expression of a text as it is compared: case, punctuation and white space do not count.

    A character of a script that is written without spaces is a word of its own.
    """
    apart = text.regexp_replace(r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])", " $1 ")
    return apart.regexp_replace(r"[^\p{L}\p{M}\p{N}]+", " ").lower().strip()


def murmur_finalize(hashes: np.ndarray) -> np.ndarray:
    """uint64 whose every bit depends on every bit of `hashes` (the finaliser of MurmurHash3)."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(33))


class WordHashes:
    """The words of a batch of texts: `hashes` uint64 (words,), `text` int64 (words,) the number of each word's text."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        """Data uint8 (bytes,): the texts one after another; bounds int64 (texts + 1,): where each starts."""
        data, offsets = data[offsets[0] : offsets[-1]], offsets - offsets[0]
        if not len(data):
            self.hashes, self.text_ids = np.zeros(0, np.uint64), np.zeros(0, np.int64)
            return
        letter = data != ord(" ")
        begins = letter.copy()
        begins[1:] &= ~letter[:-1]
        first = offsets[:-1][np.diff(offsets) > 0]
        begins[first] = letter[first]
        starts = np.flatnonzero(begins)
        hashes, ends = [np.zeros(0, np.uint64)], np.append(starts, len(data))
        for first in range(0, len(starts), CHUNK_WORDS):
            own = starts[first : first + CHUNK_WORDS]
            start, end = own[0], ends[min(first + CHUNK_WORDS, len(starts))]
            inside = np.arange(end - start) - np.repeat(own - start, np.diff(np.append(own, end)))
            hashes.append(
                murmur_finalize(
                    np.add.reduceat(
                        BYTE_HASHES[data[start:end]] * HASH_BASE_POWERS[inside % MAX_WORD_BYTES], own - start
                    )
                )
            )
        self.hashes = np.concatenate(hashes)
        self.text_ids = np.searchsorted(offsets, starts, side="right") - 1

    @classmethod
    def from_arrow(cls, texts) -> WordHashes:
        """The words of an Arrow array of large strings."""
        bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        buffer = texts.buffers()[2]
        return cls(np.frombuffer(buffer, np.uint8) if buffer else np.zeros(0, np.uint8), bounds)

    def words_per_text(self, num_texts: int) -> np.ndarray:
        """int64 (texts,): words of each."""
        return np.bincount(self.text_ids, minlength=num_texts)

    def hash_ngrams(self, ngram_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(hashes uint64 (windows,), the word each begins with, int64 (windows,)) of all runs of `ngram_size` words in a text."""
        count = max(0, len(self.hashes) - ngram_size + 1)
        at = np.flatnonzero(self.text_ids[:count] == self.text_ids[ngram_size - 1 : ngram_size - 1 + count])
        return self.hash_ngrams_at(at, ngram_size), at

    def hash_ngrams_at(self, starts: np.ndarray, ngram_size: int) -> np.ndarray:
        """uint64 (places,): hashes of the runs of `ngram_size` words that begin with the words `starts`."""
        total, factor = np.zeros(len(starts), np.uint64), np.uint64(1)
        for ahead in range(ngram_size):
            total += self.hashes[starts + ahead] * factor
            factor = np.uint64(int(factor) * int(NGRAM_BASE) % 2**64)
        return murmur_finalize(total)
