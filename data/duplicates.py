"""Which documents have stood before: the same words, or nearly. Memory stays bounded, whatever there is to compare.

Near duplicates are found by MinHash (Broder 1997): the share of equal hashes in two signatures estimates the share of
word 5-grams two documents have in common. Candidates agree in all hashes of one of BANDS bands (Indyk and Motwani
1998); they count when their whole signatures agree enough. Documents linked by any chain are one group; its first stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.joined import Joined
from data.marks import HASHES, TOO_SHORT
from data.words import mixed

BANDS = 25
AT_ONCE = 2**22  # hashes sorted at once
PAIRS_AT_ONCE = 2**14


def same(keys: Joined, alive: np.ndarray,
         key: Callable[[np.ndarray], np.ndarray] = lambda block: block[:, 0]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first, later) documents whose keys are equal, int64 arrays; later ones come once each, with the first of them.

    alive: bool (documents,), who is looked at. key: a block of rows to uint64 keys. One pass over the keys for every
    AT_ONCE documents: what is sorted at a time is bounded.
    """
    passes = -(-len(keys) // AT_ONCE)
    for number in range(passes):
        places, found = [], []
        for start, block in keys.blocks(2**16):
            own = alive[start:start + len(block)]
            hashes = key(np.asarray(block))
            if passes > 1:
                own = own & (mixed(hashes) % np.uint64(passes) == number)
            at = np.flatnonzero(own)
            places.append(at + start)
            found.append(hashes[at])
        place, hashes = np.concatenate(places), np.concatenate(found)
        order = np.argsort(hashes, kind="stable")
        place, hashes = place[order], hashes[order]
        again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else again
        yield place[begins[np.searchsorted(begins, again, side="right") - 1]] if len(again) else again, place[again]


def exact(hashes: Joined, alive: np.ndarray) -> np.ndarray:
    """int64 (documents,): for each document the first with the same words, itself when there is none before."""
    first = np.arange(len(hashes))
    for before, later in same(hashes, alive):
        first[later] = before
    return first


def near(signatures: Joined, alive: np.ndarray, similarity: float, tell=lambda band: None) -> np.ndarray:
    """int64 (documents,): for each document the first of those linked to it by similar signatures."""
    first = np.arange(len(signatures))
    rows = HASHES // BANDS
    factors = np.random.Generator(np.random.Philox(key=[0, 2])).integers(1, 2**63, rows, dtype=np.uint64) | np.uint64(1)
    long_enough = alive.copy()
    for start, block in signatures.blocks(2**16):
        long_enough[start:start + len(block)] &= block[:, 0] != TOO_SHORT
    for band in range(BANDS):
        tell(band)
        columns = slice(band * rows, (band + 1) * rows)

        def key(block: np.ndarray) -> np.ndarray:
            return mixed((block[:, columns].astype(np.uint64) * factors).sum(1, dtype=np.uint64))

        one, other = [], []
        for before, later in same(signatures, long_enough, key):
            unlinked = first[before] != first[later]
            before, later = before[unlinked], later[unlinked]
            for at in range(0, len(later), PAIRS_AT_ONCE):
                a, b = before[at:at + PAIRS_AT_ONCE], later[at:at + PAIRS_AT_ONCE]
                alike = (signatures.take(a) == signatures.take(b)).mean(1) >= similarity
                one.append(first[a[alike]])
                other.append(first[b[alike]])
        if one and len(linked := np.concatenate(one)):
            first = linked_first(first, linked, np.concatenate(other))
    tell(BANDS)
    return first


def linked_first(first: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`first` after the groups that begin with `one` and with `other` have been joined, pair by pair."""
    begins, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    pairs = coo_matrix((np.ones(len(one), bool), (place[:len(one)], place[len(one):])), shape=(len(begins),) * 2)
    _, group = connected_components(pairs, directed=False)
    earliest = np.full(group.max() + 1, len(first))
    np.minimum.at(earliest, group, begins)
    joined = first.copy()
    at = np.minimum(np.searchsorted(begins, first), len(begins) - 1)
    hit = begins[at] == first
    joined[hit] = earliest[group[at[hit]]]
    return joined
