"""Nearest neighbors, exact within each cell or by an index: near duplicates, and inputs far from all others."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

NUM_NEIGHBORS = 5  # that are stored
ODD_NEIGHBOR = 10  # its distance makes an input odd
ROWS = 1_024
MIN_INDEXED = 200_000  # inputs over which an index finds more neighbors
TRAINED_PER_LIST, NUM_PROBED, INDEX_BLOCK = 40, 8, 20_000
MAX_COMPARED = 20_000  # inputs of a cell that are all compared, as time and memory grow with their square
MAX_LINKS = 16  # to near duplicates of an input; more add nothing to a group of thousands of equal texts


class Found:
    """Neighbors as they are found. `to_arrays` returns them as `search_cells` describes."""

    def __init__(self, count: int, copies: np.ndarray | None):
        self.neighbors = np.full((count, NUM_NEIGHBORS), -1, np.int64)
        self.neighbor_distances = np.full((count, NUM_NEIGHBORS), np.nan, np.float32)
        self.distance = np.zeros(count, np.float32)
        self.pairs = [np.zeros((2, 0), np.int64) if copies is None else copies]

    def add(self, rows: np.ndarray, nearest: np.ndarray, similarities: np.ndarray) -> None:
        """Add the nearest inputs of some, (rows, neighbors), in order, with their similarities."""
        distances, kept = np.sqrt(np.maximum(2 - 2 * similarities, 0)), min(NUM_NEIGHBORS, nearest.shape[1])
        self.neighbors[rows, :kept] = nearest[:, :kept]
        self.neighbor_distances[rows, :kept] = distances[:, :kept]
        self.distance[rows] = distances[:, -1]

    def copy(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Give inputs what was added of others, of one each."""
        for values in (self.neighbors, self.neighbor_distances, self.distance):
            values[rows] = values[others]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays."""
        return {
            "neighbors": self.neighbors,
            "neighbor_distances": self.neighbor_distances,
            "distance": self.distance,
            "duplicate_of": group_pairs(np.concatenate(self.pairs, axis=1), len(self.neighbors)),
        }


def search_cells(
    vectors: np.ndarray, cells: np.ndarray, similarity: float | None, copies: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the neighbors of each input among those of its cell, or of a part of a large cell.

    vectors: unit, (inputs, width); cells: int32 (inputs,). neighbors: int64 (inputs, NUM_NEIGHBORS), -1 for none;
    neighbor_distances: of these, float32; distance: to the ODD_NEIGHBOR-th, float32 (inputs,); duplicate_of: the first
    input of a group of near duplicates, linked by `copies`, (2, pairs), and by pairs of at least `similarity`, int64
    (inputs,), -1 for none.
    """
    found = Found(len(vectors), copies)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        compare = compare_all if len(members) <= MAX_COMPARED else compare_in_parts
        compare(found, vectors, members, similarity)
    lonely = np.bincount(cells[cells >= 0], minlength=int(cells.max()) + 1)[cells] <= ODD_NEIGHBOR
    if not lonely.all():  # in a small cell, the tenth neighbor is elsewhere, at least as far as usual
        found.distance[lonely] = np.maximum(found.distance[lonely], np.quantile(found.distance[~lonely], 0.9))
    return found.to_arrays()


def compare_all(found: Found, vectors: np.ndarray, members: np.ndarray, similarity: float | None) -> None:
    """Add the neighbors of some inputs, `members`, among themselves."""
    inside = vectors[members].astype(np.float32)
    for start in range(0, len(members), ROWS):
        rows = np.arange(start, min(start + ROWS, len(members)))
        similarities = inside[rows] @ inside.T
        similarities[np.arange(len(rows)), rows] = -np.inf
        if similarity is not None:
            left, right = find_links(similarities >= similarity)
            found.pairs.append(np.stack([members[rows[left]], members[right]]))
        largest = min(ODD_NEIGHBOR, len(members) - 1)
        if not largest:
            continue
        nearest = np.argpartition(-similarities, largest - 1, axis=1)[:, :largest]
        values = np.take_along_axis(similarities, nearest, 1)
        order = np.lexsort((nearest, -values), axis=1)
        nearest, values = np.take_along_axis(nearest, order, 1), np.take_along_axis(values, order, 1)
        found.add(members[rows], members[nearest], values)


def compare_in_parts(found: Found, vectors: np.ndarray, members: np.ndarray, similarity: float | None) -> None:
    """Add neighbors of many inputs: of equal vectors a few stand for all, and what is left is compared in parts.

    Parts are along the first principal component, so that most neighbors are in the same one.
    """
    ids: dict[bytes, int] = {}
    equal = np.array([ids.setdefault(vector.tobytes(), len(ids)) for vector in vectors[members]])
    order = np.argsort(equal, kind="stable")
    starts = np.searchsorted(equal[order], np.arange(len(ids)))[equal[order]]
    members, firsts = members[order], members[order[starts]]
    rank = np.arange(len(members)) - starts  # among the equal ones
    is_kept = rank <= ODD_NEIGHBOR  # so that each has enough others that are equal
    kept = members[is_kept]
    points = vectors[kept].astype(np.float32)
    points -= points.mean(0)
    component = points @ np.linalg.eigh(points.T @ points).eigenvectors[:, -1]
    for part in np.array_split(kept[np.argsort(component, kind="stable")], -(-len(kept) // MAX_COMPARED)):
        compare_all(found, vectors, np.sort(part), similarity)
    found.copy(members[~is_kept], firsts[~is_kept])
    if similarity is not None:
        found.pairs.append(np.stack([firsts, members])[:, rank > 0])


def uses_index(count: int) -> bool:
    """Return whether neighbors are searched by an index: of very many inputs, where faiss is installed."""
    return count > MIN_INDEXED and find_spec("faiss") is not None


def search_index(
    vectors: np.ndarray, similarity: float | None, copies: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return neighbors as `search_cells` does, of all inputs, by an inverted file (Johnson et al. 2019).

    It finds 96% of the nearest, where cells of 5,000 inputs have 76%, in about the same time.
    """
    import faiss

    count, width = vectors.shape
    lists = int(4 * count**0.5)
    settings = (lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, *settings)
    index.train(vectors[:: max(1, count // (TRAINED_PER_LIST * lists))].astype(np.float32))
    blocks = [np.arange(start, min(start + INDEX_BLOCK, count)) for start in range(0, count, INDEX_BLOCK)]
    for rows in blocks:
        index.add(vectors[rows].astype(np.float32))
    index.nprobe, found = NUM_PROBED, Found(count, copies)
    for rows in blocks:
        values, nearest = index.search(vectors[rows].astype(np.float32), MAX_LINKS + 1)
        values[(nearest == rows[:, None]) | (nearest < 0)] = -np.inf
        order = np.argsort(-values, axis=1, kind="stable")[:, :MAX_LINKS]
        values, nearest = np.take_along_axis(values, order, 1), np.take_along_axis(nearest, order, 1)
        nearest[np.isneginf(values)] = -1
        values = np.maximum(values, -1)
        if similarity is not None:
            left, right = np.nonzero((values >= similarity) & (nearest >= 0))
            found.pairs.append(np.stack([rows[left], nearest[left, right]]))
        found.add(rows, nearest[:, :ODD_NEIGHBOR], values[:, :ODD_NEIGHBOR])
    return found.to_arrays()


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

    distance: to a neighbor; density: log-likelihood, both (inputs,). Equal ones share their mean rank, so that the
    order of the inputs makes no difference.
    """
    ranks = [(rankdata(values) - 1) / max(1, len(values) - 1) for values in (distance, -density)]
    return np.sqrt(ranks[0] * ranks[1]).astype(np.float32)
