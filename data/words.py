"""Words in a row, as numbers: every window of n words of a batch of texts hashed at once, with numpy.

Texts come as `compared` leaves them: lower case, words apart by one space, nothing else.
"""

from __future__ import annotations

import numpy as np

BASE, BETWEEN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that no byte is lost
AT_ONCE = 2**18  # words hashed together: it takes some hundred bytes for each
LONGEST = 4096  # a word's bytes beyond these count as if it began again
BYTES = np.random.Generator(np.random.Philox(key=[0, 1])).integers(1, 2**63, 256, dtype=np.uint64) * np.uint64(2)
BYTES |= np.uint64(1)
BYTES[ord(" ")] = 0
POWERS = np.multiply.accumulate(np.concatenate([[np.uint64(1)], np.full(LONGEST - 1, BASE)]))


def compared(text):
    """A Daft expression of a text as it is compared: case, punctuation and white space do not count.

    A character of a script that is written without spaces is a word of its own.
    """
    apart = text.regexp_replace(r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])", " $1 ")
    return apart.regexp_replace(r"[^\p{L}\p{M}\p{N}]+", " ").lower().strip()


def mixed(hashes: np.ndarray) -> np.ndarray:
    """uint64 whose every bit depends on every bit of `hashes` (the finaliser of MurmurHash3)."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(33))


class Words:
    """The words of a batch of texts: `hashes` uint64 (words,), `text` int64 (words,) the number of each word's text."""

    def __init__(self, data: np.ndarray, bounds: np.ndarray):
        """data uint8 (bytes,): the texts one after another; bounds int64 (texts + 1,): where each starts."""
        data, bounds = data[bounds[0]:bounds[-1]], bounds - bounds[0]
        if not len(data):
            self.hashes, self.text = np.zeros(0, np.uint64), np.zeros(0, np.int64)
            return
        letter = data != ord(" ")
        begins = letter.copy()
        begins[1:] &= ~letter[:-1]
        first = bounds[:-1][np.diff(bounds) > 0]
        begins[first] = letter[first]
        starts = np.flatnonzero(begins)
        hashes, ends = [np.zeros(0, np.uint64)], np.append(starts, len(data))
        for first in range(0, len(starts), AT_ONCE):
            own = starts[first:first + AT_ONCE]
            start, end = own[0], ends[min(first + AT_ONCE, len(starts))]
            inside = np.arange(end - start) - np.repeat(own - start, np.diff(np.append(own, end)))
            hashes.append(mixed(np.add.reduceat(BYTES[data[start:end]] * POWERS[inside % LONGEST], own - start)))
        self.hashes = np.concatenate(hashes)
        self.text = np.searchsorted(bounds, starts, side="right") - 1

    @classmethod
    def of(cls, texts) -> Words:
        """The words of an Arrow array of large strings."""
        bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset:texts.offset + len(texts) + 1]
        buffer = texts.buffers()[2]
        return cls(np.frombuffer(buffer, np.uint8) if buffer else np.zeros(0, np.uint8), bounds)

    def counts(self, texts: int) -> np.ndarray:
        """int64 (texts,): words of each."""
        return np.bincount(self.text, minlength=texts)

    def windows(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(hashes uint64 (windows,), the word each begins with, int64 (windows,)) of all runs of `size` words in a text."""
        count = max(0, len(self.hashes) - size + 1)
        at = np.flatnonzero(self.text[:count] == self.text[size - 1:size - 1 + count])
        return self.window_at(at, size), at

    def window_at(self, at: np.ndarray, size: int) -> np.ndarray:
        """uint64 (places,): hashes of the runs of `size` words that begin with the words `at`."""
        total, factor = np.zeros(len(at), np.uint64), np.uint64(1)
        for ahead in range(size):
            total += self.hashes[at + ahead] * factor
            factor = np.uint64(int(factor) * int(BETWEEN) % 2**64)
        return mixed(total)
