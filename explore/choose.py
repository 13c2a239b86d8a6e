"""Choose the inputs to label: first those that stand for many others, later those that a model is unsure about.

The first are a greedy solution of facility location (Krause and Golovin 2014): every choice adds most to the sum, over
all inputs, of the similarity to the nearest choice. The order is nested: the first n are the choice of n. Of the
later ones, every second is a clustered margin (Citovsky et al. 2021): of many inputs with a small margin between the
two likeliest classes, one of each cluster, so that they differ.

A chosen set is no sample of the data, so nothing is measured on it. A quarter of the inputs, by a hash of each, is
reserved for measuring and never chosen: the labeled ones among them are a random sample, whatever else was chosen.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import NamedTuple

import numpy as np

MAX_CANDIDATES = 2_500  # inputs to choose from
MAX_REPRESENTED = 10_000  # inputs to be similar to a choice
UNCERTAIN_FACTOR = 10  # uncertain inputs for each one that is chosen of them
MIN_LABELS, MIN_LABELS_PER_CLASS = 32, 5  # from which margins help (benchmarks/choosing.py)
MEASURED_FRACTION = 0.25
CANDIDATE_STREAM, REPRESENTED_STREAM = 2**36, 2**36 + 1


class Choice(NamedTuple):
    """Inputs in the order to label."""

    indices: np.ndarray
    """int64 (choices,)."""
    is_uncertain: np.ndarray
    """Whether each is chosen by its margin, bool (choices,)."""


def sample_indices(indices: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    """Return at most `count` of the indices, in ascending order."""
    if len(indices) <= count:
        return indices
    generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
    return np.sort(generator.choice(indices, count, replace=False))


def choose_representative(
    vectors: np.ndarray, allowed: np.ndarray, labeled: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Return at most `count` of the indices `allowed`, by facility location, in order.

    vectors: unit, float32 (inputs, width). labeled: indices of inputs that stand for others already. At most
    MAX_CANDIDATES are compared, for MAX_REPRESENTED inputs, so time and memory do not grow with the inputs.
    """
    candidates = sample_indices(allowed, max(MAX_CANDIDATES, count), seed, CANDIDATE_STREAM)
    represented = vectors[sample_indices(np.arange(len(vectors)), MAX_REPRESENTED, seed, REPRESENTED_STREAM)]
    nearest = np.zeros(len(represented), np.float32)
    for index in labeled:
        np.maximum(nearest, represented @ vectors[index], out=nearest)
    similarities = vectors[candidates] @ represented.T
    # A gain only shrinks as others are chosen, so an old one that is below another's new one need not be computed.
    gains = [(-float(np.maximum(row - nearest, 0).sum()), position) for position, row in enumerate(similarities)]
    heapq.heapify(gains)
    chosen = []
    while gains and len(chosen) < count:
        _, position = heapq.heappop(gains)
        gain = float(np.maximum(similarities[position] - nearest, 0).sum())
        if gains and gain < -gains[0][0]:
            heapq.heappush(gains, (-gain, position))
            continue
        chosen.append(position)
        np.maximum(nearest, similarities[position], out=nearest)
    return candidates[np.array(chosen, np.int64)]


def margins_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the difference between the two largest probabilities of each input, (inputs,)."""
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return largest[:, 1] - largest[:, 0]


def choose_uncertain(
    vectors: np.ndarray, allowed: np.ndarray, margins: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Return at most `count` of the indices `allowed`, by clustered margin, the smallest margins first.

    vectors: unit, float32 (inputs, width); margins: of all inputs, (inputs,).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    order = allowed[np.argsort(margins[allowed], kind="stable")][: UNCERTAIN_FACTOR * count]
    if len(order) <= count:
        return order
    with threadpool_limits(1, user_api="openmp"):  # several threads add in any order, which changes the last digits
        clusters = KMeans(count, n_init=1, random_state=seed).fit_predict(vectors[order])
    _, firsts = np.unique(clusters, return_index=True)
    further = np.setdiff1d(np.arange(len(order)), firsts)[: count - len(firsts)]
    return order[np.sort(np.concatenate([firsts, further]))]


def choose_inputs(
    vectors: np.ndarray,
    allowed: np.ndarray,
    labeled: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None,
    count: int,
    seed: int,
) -> Choice:
    """Return the inputs of the next round: representative ones, in turn with uncertain ones once labels are enough.

    labels: of the `labeled` inputs, (labeled,). probabilities: by a model, (inputs, classes), None without one.
    """
    enough = len(labels) >= max(MIN_LABELS, MIN_LABELS_PER_CLASS * len(np.unique(labels)))
    uncertain = np.zeros(0, np.int64)
    if probabilities is not None and probabilities.shape[1] > 1 and enough:
        uncertain = choose_uncertain(vectors, allowed, margins_of(probabilities), (count + 1) // 2, seed)
    known, left = np.concatenate([labeled, uncertain]), np.setdiff1d(allowed, uncertain)
    spread = choose_representative(vectors, left, known, count - len(uncertain), seed)
    positions = np.concatenate([np.arange(len(uncertain)), np.arange(len(spread)) + 0.5])
    order = np.argsort(positions, kind="stable")
    return Choice(np.concatenate([uncertain, spread])[order], (np.arange(len(order)) < len(uncertain))[order])


def measuring_ranks(keys: list[str], seed: int) -> np.ndarray:
    """Return a number from 0 to 1 for each key, which is below MEASURED_FRACTION for those reserved for measuring.

    It follows from the key and the seed alone, so that equal inputs are never on both sides, and a file that grows
    keeps its reserved inputs. Their order is random too.
    """
    digests = (hashlib.sha256(f"measure\0{seed}\0{key}".encode("utf-8", "replace")).digest()[:8] for key in keys)
    return np.array([int.from_bytes(digest) / 2**64 for digest in digests])


def merge_rounds(train: np.ndarray, measure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices, whether each measures): a fourth one to measure after three to train on, then what is left."""
    per_group = round(1 / MEASURED_FRACTION) - 1
    positions = np.concatenate([np.arange(len(train)) // per_group + 0.25, np.arange(len(measure)) + 0.5])
    order = np.argsort(positions, kind="stable")
    is_measured = np.arange(len(positions)) >= len(train)
    return np.concatenate([train, measure])[order], is_measured[order]
