"""Nearest neighbors, exact within each cell: near duplicates, and inputs far from all others."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

NUM_NEIGHBORS = 5  # that are stored
ODD_NEIGHBOR = 10  # its distance makes an input odd
ROWS = 1_024
MAX_LINKS = 16  # to near duplicates of an input; more add nothing to a group of thousands of equal texts


def search_cells(
    vectors: np.ndarray, cells: np.ndarray, similarity: float | None, copies: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the neighbors of each input among those of its cell.

    vectors: unit, (inputs, width); cells: int32 (inputs,). neighbors: int64 (inputs, NUM_NEIGHBORS), -1 for none;
    neighbor_distances: of these, float32; distance: to the ODD_NEIGHBOR-th, float32 (inputs,); duplicate_of: the first
    input of a group of near duplicates, linked by `copies`, (2, pairs), and by pairs of at least `similarity`, int64
    (inputs,), -1 for none.
    """
    count = len(vectors)
    neighbors = np.full((count, NUM_NEIGHBORS), -1, np.int64)
    neighbor_distances = np.full((count, NUM_NEIGHBORS), np.nan, np.float32)
    distance, pairs = np.zeros(count, np.float32), [np.zeros((2, 0), np.int64) if copies is None else copies]
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        inside = vectors[members].astype(np.float32)
        for start in range(0, len(members), ROWS):
            rows = np.arange(start, min(start + ROWS, len(members)))
            similarities = inside[rows] @ inside.T
            similarities[np.arange(len(rows)), rows] = -np.inf
            if similarity is not None:
                left, right = find_links(similarities >= similarity)
                pairs.append(np.stack([members[rows[left]], members[right]]))
            largest = min(ODD_NEIGHBOR, len(members) - 1)
            if not largest:
                continue
            nearest = np.argpartition(-similarities, largest - 1, axis=1)[:, :largest]
            values = np.take_along_axis(similarities, nearest, 1)
            order = np.lexsort((nearest, -values), axis=1)
            nearest, values = np.take_along_axis(nearest, order, 1), np.take_along_axis(values, order, 1)
            distances = np.sqrt(np.maximum(2 - 2 * values, 0))
            kept = min(NUM_NEIGHBORS, largest)
            neighbors[members[rows], :kept] = members[nearest[:, :kept]]
            neighbor_distances[members[rows], :kept] = distances[:, :kept]
            distance[members[rows]] = distances[:, -1]
    lonely = np.bincount(cells[cells >= 0], minlength=int(cells.max()) + 1)[cells] <= ODD_NEIGHBOR
    if not lonely.all():  # in a small cell, the tenth neighbor is elsewhere, at least as far as usual
        distance[lonely] = np.maximum(distance[lonely], np.quantile(distance[~lonely], 0.9))
    duplicate_of = group_pairs(np.concatenate(pairs, axis=1), count)
    return {
        "neighbors": neighbors,
        "neighbor_distances": neighbor_distances,
        "distance": distance,
        "duplicate_of": duplicate_of,
    }


def find_links(is_similar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of at most the first MAX_LINKS true values of each row, (rows, inputs)."""
    many = np.flatnonzero(is_similar.sum(1) > MAX_LINKS)
    is_similar[many] &= np.cumsum(is_similar[many], axis=1) <= MAX_LINKS
    return np.nonzero(is_similar)


def group_pairs(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return the first member of the group of each input, int64 (count,), -1 for those in no pair, (2, pairs)."""
    graph = coo_matrix((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (count, count))
    _, groups = connected_components(graph, directed=False)
    sizes = np.bincount(groups)
    _, firsts = np.unique(groups, return_index=True)
    return np.where(sizes[groups] > 1, firsts[groups], -1)


def rank_oddness(distance: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return how odd each input is, from 0 to 1, float32 (inputs,): far from its neighbors and in a thin region.

    distance: to a neighbor; density: log-likelihood, both (inputs,).
    """
    ranks = []
    for values in (distance, -density):
        rank = np.empty(len(values))
        rank[np.argsort(values, kind="stable")] = np.arange(len(values)) / max(1, len(values) - 1)
        ranks.append(rank)
    return np.sqrt(ranks[0] * ranks[1]).astype(np.float32)
