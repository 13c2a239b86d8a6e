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

from data.labelled import normal
from data.words import Words

RUN, SHORTEST, SHARE = 8, 5, 0.5
AT_ONCE = 2**20  # characters of the others looked at together
NONE, NEAR, EXACT = 0, 1, 2
# A character of a script written without spaces is a word of its own; the vowel signs of India's are part of the word.
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}_])[\w\u0900-\u0dff])+")


def words_of(texts: list[str]) -> Words:
    """The words of texts; case and punctuation do not count."""
    import pyarrow

    plain = [" ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold())) for text in texts]
    return Words.of(pyarrow.array(plain, pyarrow.large_string()))


class Overlap:
    """Texts looked for in others. `found` uint8 (texts,): NONE, NEAR or EXACT; `where` a text each was found in."""

    def __init__(self, texts: list[str]):
        self.found, self.where = np.zeros(len(texts), np.uint8), {}
        self.same: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            self.same.setdefault(normal((text,)), []).append(place)
        words = words_of(texts)
        lengths = words.counts(len(texts))
        self.too_short, self.runs = lengths < SHORTEST, {}
        self.distinct = np.ones(len(texts), np.int64)
        for size in range(SHORTEST, RUN + 1):
            hashes, at = words.windows(size)
            owner = words.text[at]
            own = lengths[owner] >= RUN if size == RUN else lengths[owner] == size
            if own.any():
                # Sorted by hash; a text that repeats itself stands there once for each run.
                self.runs[size] = hashes, owner = distinct(hashes[own], owner[own])
                counts = np.bincount(owner, minlength=len(texts))
                self.distinct[counts > 0] = counts[counts > 0]

    def look(self, others: Iterable[str]) -> int:
        """Look in the others, some at a time; returns how many there were."""
        batch, held, count = [], 0, 0
        for text in others:
            batch.append(text)
            held, count = held + len(text), count + 1
            if held > AT_ONCE:
                self.look_in(batch)
                batch, held = [], 0
        self.look_in(batch)
        return count

    def look_in(self, others: list[str]) -> None:
        """Look in a few texts."""
        for text in others:
            self.mark(self.same.get(normal((text,)), []), EXACT, text)
        words = words_of(others)
        for size, (known, owner) in self.runs.items():
            hashes, at = words.windows(size)
            there = np.searchsorted(known, hashes)
            hit = known[np.minimum(there, len(known) - 1)] == hashes
            hashes, text = distinct(hashes[hit], words.text[at[hit]])
            first, last = (np.searchsorted(known, hashes, side=side) for side in ("left", "right"))
            times = last - first
            # Every text that holds a run, beside every other that does.
            inside = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            owners = owner[np.repeat(first, times) + inside]
            pairs, shared = np.unique(np.repeat(text, times) * len(self.found) + owners, return_counts=True)
            for pair in pairs[shared >= SHARE * self.distinct[pairs % len(self.found)]].tolist():
                self.mark([pair % len(self.found)], NEAR, others[pair // len(self.found)])

    def mark(self, places: list[int], how: int, where: str) -> None:
        """These texts stand in `where`."""
        for place in places:
            if self.found[place] < how:
                self.found[place], self.where[place] = how, where


def distinct(hashes: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (hash, owner) pairs, each once, sorted by hash."""
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owner) != 0))[:len(hashes)]
    return hashes[new], owner[new]
