"""Exact and near duplicates among documents, in bounded memory.

Near duplicates are found by MinHash (Broder 1997): the fraction of equal hashes in two signatures estimates the Jaccard
similarity of their word 5-grams. Candidates agree in all hashes of one of NUM_BANDS bands (Indyk and Motwani 1998) and
are verified on the whole signatures. Documents linked by any chain form one group, of which the first is kept.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.arrays import ConcatenatedArray
from data.corpus.signals import NO_SIGNATURE, NUM_HASHES
from data.ngrams import murmur_finalize

NUM_BANDS = 25
CHUNK_HASHES = 2**22  # keys sorted at once
CHUNK_PAIRS = 2**14


def find_equal_keys(
    keys: ConcatenatedArray, is_candidate: np.ndarray, get_key: Callable = lambda block: block[:, 0]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (first, later), int64 arrays of documents with equal keys; each later one occurs once, with its first.

    is_candidate: bool (documents,). get_key: maps a block of rows to uint64 keys. One pass over the keys per
    CHUNK_HASHES documents bounds what is sorted at once.
    """
    passes = -(-len(keys) // CHUNK_HASHES)
    for number in range(passes):
        index_chunks, key_chunks = [], []
        for start, block in keys.iter_blocks(2**16):
            selected = is_candidate[start : start + len(block)]
            values = get_key(np.asarray(block))
            if passes > 1:
                selected = selected & (murmur_finalize(values) % np.uint64(passes) == number)
            at = np.flatnonzero(selected)
            index_chunks.append(at + start)
            key_chunks.append(values[at])
        indices, values = np.concatenate(index_chunks), np.concatenate(key_chunks)
        order = np.argsort(values, kind="stable")
        indices, values = indices[order], values[order]
        is_repeat = values[1:] == values[:-1]
        repeats = np.flatnonzero(is_repeat) + 1
        starts = np.flatnonzero(np.append(True, ~is_repeat))
        yield indices[starts[np.searchsorted(starts, repeats, side="right") - 1]], indices[repeats]


def find_exact_duplicates(hashes: ConcatenatedArray, is_candidate: np.ndarray) -> np.ndarray:
    """Return int64 (documents,): for each document the first with the same words, or itself."""
    first = np.arange(len(hashes))
    for before, later in find_equal_keys(hashes, is_candidate):
        first[later] = before
    return first


def find_near_duplicates(
    signatures: ConcatenatedArray, is_candidate: np.ndarray, similarity: float, on_progress=lambda band: None
) -> np.ndarray:
    """Return int64 (documents,): for each document the first of its group of similar signatures."""
    first = np.arange(len(signatures))
    rows = NUM_HASHES // NUM_BANDS
    factors = np.random.Generator(np.random.Philox(key=[0, 2])).integers(1, 2**63, rows, dtype=np.uint64) | np.uint64(1)
    has_signature = is_candidate.copy()
    for start, block in signatures.iter_blocks(2**16):
        has_signature[start : start + len(block)] &= block[:, 0] != NO_SIGNATURE
    for band in range(NUM_BANDS):
        on_progress(band)

        def band_key(block: np.ndarray, columns=slice(band * rows, (band + 1) * rows)) -> np.ndarray:
            return murmur_finalize((block[:, columns].astype(np.uint64) * factors).sum(1, dtype=np.uint64))

        left, right = [], []
        for before, later in find_equal_keys(signatures, has_signature, band_key):
            unlinked = first[before] != first[later]
            before, later = before[unlinked], later[unlinked]
            for at in range(0, len(later), CHUNK_PAIRS):
                a, b = before[at : at + CHUNK_PAIRS], later[at : at + CHUNK_PAIRS]
                is_similar = (signatures.take(a) == signatures.take(b)).mean(1) >= similarity
                left.append(first[a[is_similar]])
                right.append(first[b[is_similar]])
        if left and len(linked := np.concatenate(left)):
            first = merge_groups(first, linked, np.concatenate(right))
    on_progress(NUM_BANDS)
    return first


def merge_groups(first: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return `first` with each pair of groups merged that start with left[i] and right[i]."""
    starts, nodes = np.unique(np.concatenate([left, right]), return_inverse=True)
    edges = (nodes[: len(left)], nodes[len(left) :])
    graph = coo_matrix((np.ones(len(left), bool), edges), shape=(len(starts), len(starts)))
    _, group = connected_components(graph, directed=False)
    earliest = np.full(group.max() + 1, len(first))
    np.minimum.at(earliest, group, starts)
    merged = first.copy()
    at = np.minimum(np.searchsorted(starts, first), len(starts) - 1)
    hit = starts[at] == first
    merged[hit] = earliest[group[at[hit]]]
    return merged
