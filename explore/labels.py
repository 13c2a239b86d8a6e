"""What labels are good for: suggestions for other inputs, labels that look wrong, and the accuracy of a model."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from data.tasks.class_names import default_templates, list_class_texts
from data.tasks.label_propagation import NAMES_C, balance_classes, propagate_labels, weigh_texts
from data.tasks.linear_probe import fit_logistic_regression
from data.tasks.splits import Example
from explore.vectors import TextEncoder

PROBE_C = 30.0  # for unit vectors
FOLDS, REPEATS = 5, 3
LABELED_FRACTION = 0.25
INTERVAL = 0.95
MIN_SUSPECT_ROWS = 20
SUSPECT_FRACTION = 0.05  # of the labels, on which the models of a second pass are not fitted


class Suspect(NamedTuple):
    """A label that looks wrong."""

    index: int
    confidence: float
    """Probability of the given label, by models that have not seen it."""
    suggestion: int
    """Class id of the likeliest label."""
    suggestion_probability: float


class Measured(NamedTuple):
    """The accuracy on rows that were drawn at random."""

    correct: int
    rows: int
    low: float
    high: float
    rows_to_halve: int
    """Further rows after which the interval would be half as wide."""


def predict_out_of_fold(
    vectors: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    repeats: int = REPEATS,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """Return class probabilities of labeled inputs by models that were not fitted on them, (inputs, classes).

    vectors: unit, (inputs, width); labels: class ids; left_out: indices of inputs on which no model is fitted. Means
    over repeated cross-validation. A class that the folds cannot share has probability 0 where it is held out.
    """
    total = np.zeros((len(labels), num_classes))
    folds = min(FOLDS, int(np.bincount(labels).max()))
    for repeat in range(repeats):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
            splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed + repeat).split(vectors, labels))
        for train, held_out in splits:
            train = train if left_out is None else np.setdiff1d(train, left_out)
            if len(np.unique(labels[train])) < 2:
                total[np.ix_(held_out, np.unique(labels[train]))] += 1
                continue
            model = fit_logistic_regression(vectors[train], labels[train], seed, PROBE_C)
            total[np.ix_(held_out, model.classes_)] += model.predict_proba(vectors[held_out])
    return total / repeats


def rate_labels(vectors: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Return class probabilities as `predict_out_of_fold` does, the means of two passes.

    The second one is fitted without the labels that are most suspect after the first, because wrong labels mislead the
    models that rate the others.
    """
    first = predict_out_of_fold(vectors, labels, num_classes, seed)
    order = np.argsort(first[np.arange(len(labels)), labels], kind="stable")
    suspects = order[: round(SUSPECT_FRACTION * len(labels))]
    return (first + predict_out_of_fold(vectors, labels, num_classes, seed, left_out=suspects)) / 2


def find_suspects(
    vectors: np.ndarray, indices: np.ndarray, labels: np.ndarray, num_classes: int, count: int, seed: int
) -> list[Suspect]:
    """Return at most `count` labels that look wrong, the most suspect first: another class is likelier.

    vectors: of all inputs; indices: of the labeled ones; labels: their class ids, (labeled,). The only row of a class
    is never one, because a model that has not seen it knows nothing of its class.
    """
    counts = np.bincount(labels) if len(labels) else np.zeros(1, int)
    if len(indices) < MIN_SUSPECT_ROWS or np.count_nonzero(counts) < 2 or counts.max() < 2:
        return []
    probabilities = rate_labels(vectors[indices].astype(np.float32), labels, num_classes, seed)
    confidence, likeliest = probabilities[np.arange(len(labels)), labels], probabilities.argmax(1)
    is_suspect = (likeliest != labels) & (counts[labels] > 1)
    order = [row for row in np.argsort(confidence, kind="stable") if is_suspect[row]]
    return [
        Suspect(int(indices[row]), float(confidence[row]), int(likeliest[row]), float(probabilities[row].max()))
        for row in order[:count]
    ]


def predict_from_labels(vectors: np.ndarray, indices: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return class probabilities of all inputs from the labeled ones, float32 (inputs, classes)."""
    probabilities = np.zeros((len(vectors), num_classes), np.float32)
    if len(np.unique(labels)) < 2:
        probabilities[:, labels[:1]] = 1
        return probabilities
    weights = balance_classes(labels)
    model = fit_logistic_regression(vectors[indices].astype(np.float32), labels, 0, PROBE_C, weights)
    probabilities[:, model.classes_] = model.predict_proba(vectors)
    return probabilities


def predict_from_names(
    vectors: np.ndarray, texts: list[str], classes: list[str], descriptions: dict, encoder: TextEncoder
) -> np.ndarray | None:
    """Return class probabilities of all inputs from the names of the classes, or None if they are not words."""
    own = {name: [text] if isinstance(text, str) else text for name, text in descriptions.items()}
    examples = [Example((text,), "") for text in texts[:1_000]]
    class_texts = list_class_texts(classes, own, default_templates(examples))
    if len(classes) < 2 or not class_texts:
        return None
    features = encoder.embed([example.texts[0] for example in class_texts])
    labels = np.array([classes.index(example.label) for example in class_texts])
    weights = weigh_texts(labels, 0, 1.0)
    return propagate_labels(features, labels, vectors.astype(np.float32), LABELED_FRACTION, weights, NAMES_C)


def accuracy_interval(correct: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95% interval of an accuracy (Clopper and Pearson 1934), which holds it no less often."""
    from scipy.stats import beta

    tail = (1 - INTERVAL) / 2
    low = np.where(correct > 0, beta.ppf(tail, np.maximum(correct, 1e-9), rows - correct + 1), 0.0)
    high = np.where(correct < rows, beta.ppf(1 - tail, correct + 1, np.maximum(rows - correct, 1e-9)), 1.0)
    return low, high


def measure_accuracy(correct: int, rows: int) -> Measured:
    """Return the accuracy on random rows."""
    totals = np.arange(rows, 8 * rows + 8)
    low, high = accuracy_interval(np.round(correct / rows * totals), totals)
    is_half = high - low <= (high[0] - low[0]) / 2
    return Measured(correct, rows, float(low[0]), float(high[0]), int(is_half.argmax()))


def describe_measured(measured: Measured) -> str:
    """Return the sentence that reports an accuracy. The ends of the interval are rounded outward."""
    low, high = math.floor(100 * measured.low), math.ceil(100 * measured.high)
    return (
        f"{measured.correct} of {measured.rows} randomly drawn rows are correct: accuracy {low}% to"
        f" {high}% (95% interval); {measured.rows_to_halve} more rows would halve the interval"
    )
