"""What pretraining did to the map: the encoder's vectors and simpler ones of the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score, silhouette_score

from explore.choose import sample_indices
from explore.cluster import choose_num_clusters, fit_kmeans, reduce
from explore.steps import Steps

MAX_SAMPLE = 1_000  # inputs, and as many labeled ones
NUM_NEIGHBORS = 10
MIN_LABELED = 20
SAMPLE_STREAM, LABELED_STREAM = 2**36 + 9, 2**36 + 10
ENCODER = "encoder"

Baseline = tuple[str, Callable[[], np.ndarray]]
"""A name, and a function that returns unit vectors, float32 (inputs, width)."""


class MapQuality(NamedTuple):
    """How good vectors are for a map; NaN for what is not known."""

    name: str
    same_label: float
    """Fraction of the nearest labeled neighbors of labeled inputs that have the same label."""
    stability: float
    """Adjusted Rand index of the clusters of two seeds."""
    silhouette: float
    shared_neighbors: float
    """Fraction of the nearest neighbors that are among those by the encoder's vectors."""

    def to_json(self) -> dict[str, str | float | None]:
        """Return all fields, None for what is not known."""
        return {key: value if value == value else None for key, value in self._asdict().items()}


def find_neighbors(vectors: np.ndarray) -> np.ndarray:
    """Return the nearest others of each vector, exactly, int64 (inputs, at most NUM_NEIGHBORS)."""
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -np.inf)
    count = min(NUM_NEIGHBORS, len(vectors) - 1)
    return np.argpartition(-similarities, count - 1, axis=1)[:, :count]


def share_neighbors(neighbors: np.ndarray, others: np.ndarray) -> float:
    """Return the fraction of the neighbors of each input that are among its others, both (inputs, neighbors)."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(neighbors, others, strict=True)]))


def measure_clusters(vectors: np.ndarray, seed: int) -> tuple[float, float]:
    """Return (agreement of two seeds, silhouette) of k-means clusters of vectors."""
    points, count = reduce(vectors, seed), choose_num_clusters(len(vectors))
    first, second = (fit_kmeans(points, count, seed + number) for number in range(2))
    is_single = len(np.unique(first)) < 2
    return adjusted_rand_score(first, second), float("nan") if is_single else float(silhouette_score(points, first))


def measure_same_label(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of neighbors with the same label; NaN for too few. labels: of each vector, (inputs,)."""
    if len(labels) < MIN_LABELED:
        return float("nan")
    return float((labels[find_neighbors(vectors)] == labels[:, None]).mean())


class BaselineSample(NamedTuple):
    """The inputs that baselines are measured on: positions in `indices`."""

    indices: np.ndarray
    """Of inputs, ascending."""
    drawn: np.ndarray
    labeled: np.ndarray


def draw_sample(encoded: np.ndarray, labels: list[str], seed: int) -> BaselineSample:
    """Return a random sample of the encoded inputs, and the labeled ones in it with others up to as many."""
    drawn = sample_indices(encoded, MAX_SAMPLE, seed, SAMPLE_STREAM)
    known = encoded[np.array([bool(labels[index]) for index in encoded], bool)]
    inside, others = np.intersect1d(known, drawn), np.setdiff1d(known, drawn)
    labeled = np.concatenate([inside, sample_indices(others, MAX_SAMPLE - len(inside), seed, LABELED_STREAM)])
    indices = np.union1d(drawn, labeled)
    return BaselineSample(indices, np.searchsorted(indices, drawn), np.searchsorted(indices, labeled))


def measure_baselines(
    vectors: np.ndarray,
    baselines: list[Baseline],
    sample: BaselineSample,
    labels: list[str],
    steps: Steps,
    key: list,
    seed: int,
) -> list[MapQuality]:
    """Return the quality of the encoder's vectors, of `sample.indices`, and of each baseline.

    labels: of all inputs. key: what the vectors depend on.
    """
    known = np.array([labels[sample.indices[position]] for position in sample.labeled], object)
    encoder_neighbors, found = find_neighbors(vectors[sample.drawn]), []
    key = [*key, sample.indices.tolist()]
    for name, embed in [(ENCODER, lambda: vectors), *baselines]:

        def compute(embed: Callable[[], np.ndarray] = embed) -> dict[str, np.ndarray]:
            made = embed()
            neighbors = find_neighbors(made[sample.drawn])
            values = [
                measure_same_label(made[sample.labeled], known),
                *measure_clusters(made[sample.drawn], seed),
                share_neighbors(neighbors, encoder_neighbors),
            ]
            return {"values": np.array(values)}

        values = steps.get("baseline", [*key, name, known.tolist(), seed], compute)["values"]
        found.append(MapQuality(name, *(round(float(value), 4) for value in values)))
    return found


def tabulate(found: list[MapQuality]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table, without a column that is not known."""
    titles = {
        "same_label": "neighbors with the same label",
        "stability": "two seeds agree",
        "silhouette": "silhouette",
        "shared_neighbors": "neighbors as the encoder's",
    }
    known = [key for key in titles if any(getattr(each, key) == getattr(each, key) for each in found)]
    rows = [
        [each.name, *(f"{value:.2f}" if (value := getattr(each, key)) == value else "" for key in known)]
        for each in found
    ]
    return ["vectors", *(titles[key] for key in known)], rows
