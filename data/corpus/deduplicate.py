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

from data.arrays import ConcatenatedArray
from data.corpus.signals import NO_SIGNATURE, NUM_HASHES
from data.ngrams import murmur_finalize

NUM_BANDS = 25
CHUNK_HASHES = 2**22  # hashes sorted at once
CHUNK_PAIRS = 2**14


def find_equal_keys(
    keys: ConcatenatedArray,
    is_candidate: np.ndarray,
    get_key: Callable[[np.ndarray], np.ndarray] = lambda block: block[:, 0],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first, later) documents whose keys are equal, int64 arrays; later ones come once each, with the first of them.

    is_candidate: bool (documents,), who is looked at. get_key: a block of rows to uint64 keys. One pass over the keys for every
    AT_ONCE documents: what is sorted at a time is bounded.
    """
    passes = -(-len(keys) // CHUNK_HASHES)
    for number in range(passes):
        places, found = [], []
        for start, block in keys.iter_blocks(2**16):
            own = is_candidate[start : start + len(block)]
            hashes = get_key(np.asarray(block))
            if passes > 1:
                own = own & (murmur_finalize(hashes) % np.uint64(passes) == number)
            at = np.flatnonzero(own)
            places.append(at + start)
            found.append(hashes[at])
        place, hashes = np.concatenate(places), np.concatenate(found)
        order = np.argsort(hashes, kind="stable")
        place, hashes = place[order], hashes[order]
        again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else again
        yield place[begins[np.searchsorted(begins, again, side="right") - 1]] if len(again) else again, place[again]


def find_exact_duplicates(hashes: ConcatenatedArray, is_candidate: np.ndarray) -> np.ndarray:
    """int64 (documents,): for each document the first with the same words, itself when there is none before."""
    first = np.arange(len(hashes))
    for before, later in find_equal_keys(hashes, is_candidate):
        first[later] = before
    return first


def find_near_duplicates(
    signatures: ConcatenatedArray, is_candidate: np.ndarray, similarity: float, on_progress=lambda band: None
) -> np.ndarray:
    """int64 (documents,): for each document the first of those linked to it by similar signatures."""
    first = np.arange(len(signatures))
    rows = NUM_HASHES // NUM_BANDS
    factors = np.random.Generator(np.random.Philox(key=[0, 2])).integers(1, 2**63, rows, dtype=np.uint64) | np.uint64(1)
    long_enough = is_candidate.copy()
    for start, block in signatures.iter_blocks(2**16):
        long_enough[start : start + len(block)] &= block[:, 0] != NO_SIGNATURE
    for band in range(NUM_BANDS):
        on_progress(band)
        columns = slice(band * rows, (band + 1) * rows)

        def key(block: np.ndarray) -> np.ndarray:
            return murmur_finalize((block[:, columns].astype(np.uint64) * factors).sum(1, dtype=np.uint64))

        one, other = [], []
        for before, later in find_equal_keys(signatures, long_enough, key):
            unlinked = first[before] != first[later]
            before, later = before[unlinked], later[unlinked]
            for at in range(0, len(later), CHUNK_PAIRS):
                a, b = before[at : at + CHUNK_PAIRS], later[at : at + CHUNK_PAIRS]
                alike = (signatures.take(a) == signatures.take(b)).mean(1) >= similarity
                one.append(first[a[alike]])
                other.append(first[b[alike]])
        if one and len(linked := np.concatenate(one)):
            first = merge_groups(first, linked, np.concatenate(other))
    on_progress(NUM_BANDS)
    return first


def merge_groups(first: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`first` after the groups that begin with `left` and with `right` have been joined, pair by pair."""
    begins, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    pairs = coo_matrix((np.ones(len(left), bool), (place[: len(left)], place[len(left) :])), shape=(len(begins),) * 2)
    _, group = connected_components(pairs, directed=False)
    earliest = np.full(group.max() + 1, len(first))
    np.minimum.at(earliest, group, begins)
    joined = first.copy()
    at = np.minimum(np.searchsorted(begins, first), len(begins) - 1)
    hit = begins[at] == first
    joined[hit] = earliest[group[at[hit]]]
    return joined
