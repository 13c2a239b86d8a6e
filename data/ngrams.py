"""Hashes of all word n-grams of a batch of texts, vectorized with numpy.

Texts are normalized by `normalize_text`: lowercase words separated by single spaces.
"""

from __future__ import annotations

import numpy as np

HASH_BASE, NGRAM_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that no byte is lost
CHUNK_WORDS = 2**18  # words hashed together, at some hundred bytes each
MAX_WORD_BYTES = 4096  # the hash of longer words restarts its powers
BYTE_HASHES = np.random.Generator(np.random.Philox(key=[0, 1])).integers(1, 2**63, 256, dtype=np.uint64) * np.uint64(2)
BYTE_HASHES |= np.uint64(1)
BYTE_HASHES[ord(" ")] = 0
HASH_BASE_POWERS = np.multiply.accumulate(np.concatenate([[np.uint64(1)], np.full(MAX_WORD_BYTES - 1, HASH_BASE)]))


def normalize_text(text):
    """Normalize a Daft expression of text to lowercase words; scripts without spaces get one word per character."""
    split = text.regexp_replace(r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])", " $1 ")
    return split.regexp_replace(r"[^\p{L}\p{M}\p{N}]+", " ").lower().strip()


def murmur_finalize(hashes: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 `hashes` (finalizer of MurmurHash3)."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(33))


class WordHashes:
    """Words of texts (uint8 bytes, int64 offsets (texts + 1,)): `hashes` uint64 and `text_ids` int64, both (words,)."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        data, offsets = data[offsets[0] : offsets[-1]], offsets - offsets[0]
        if not len(data):
            self.hashes, self.text_ids = np.zeros(0, np.uint64), np.zeros(0, np.int64)
            return
        is_letter = data != ord(" ")
        is_start = is_letter.copy()
        is_start[1:] &= ~is_letter[:-1]
        text_starts = offsets[:-1][np.diff(offsets) > 0]
        is_start[text_starts] = is_letter[text_starts]
        starts = np.flatnonzero(is_start)
        hashes, ends = [np.zeros(0, np.uint64)], np.append(starts, len(data))
        for first in range(0, len(starts), CHUNK_WORDS):
            words = starts[first : first + CHUNK_WORDS]
            start, end = words[0], ends[min(first + CHUNK_WORDS, len(starts))]
            in_word = np.arange(end - start) - np.repeat(words - start, np.diff(np.append(words, end)))
            terms = BYTE_HASHES[data[start:end]] * HASH_BASE_POWERS[in_word % MAX_WORD_BYTES]
            hashes.append(murmur_finalize(np.add.reduceat(terms, words - start)))
        self.hashes = np.concatenate(hashes)
        self.text_ids = np.searchsorted(offsets, starts, side="right") - 1

    @classmethod
    def from_arrow(cls, texts) -> WordHashes:
        """Build from an Arrow array of large strings."""
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        return cls(np.frombuffer(texts.buffers()[2] or b"", np.uint8), offsets)

    def words_per_text(self, num_texts: int) -> np.ndarray:
        """Count the words of each text: int64 (texts,)."""
        return np.bincount(self.text_ids, minlength=num_texts)

    def hash_ngrams(self, ngram_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Hash all n-grams within a text: (hashes uint64 (ngrams,), index of the first word int64 (ngrams,))."""
        count = max(0, len(self.hashes) - ngram_size + 1)
        starts = np.flatnonzero(self.text_ids[:count] == self.text_ids[ngram_size - 1 : ngram_size - 1 + count])
        return self.hash_ngrams_at(starts, ngram_size), starts

    def hash_ngrams_at(self, starts: np.ndarray, ngram_size: int) -> np.ndarray:
        """Hash the n-grams that start at the words `starts`: uint64 (ngrams,)."""
        total, factor = np.zeros(len(starts), np.uint64), np.uint64(1)
        for offset in range(ngram_size):
            total += self.hashes[starts + offset] * factor
            factor = np.uint64(int(factor) * int(NGRAM_BASE) % 2**64)
        return murmur_finalize(total)
