"""Linear baselines: logistic regression on TF-IDF features and on frozen mean-pooled embeddings.

The regularization strength is chosen by cross-validation on the training labels alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from data.tasks.task import Example
from finetune.evaluation.baselines import LINEAR_C_VALUES

FROZEN_C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse regularization, for features of variance 1
NUM_FOLDS = 5
FeatureExtractor = Callable[[np.ndarray | list[Example], np.ndarray | list[Example]], tuple]
"""Maps (training rows, other rows) to the features of both, fitted on the training rows."""
FitFeatures = Callable[[list[Example]], Callable[[list[Example]], Any]]
"""Fits features on training rows; returns their extraction from any rows."""


def predict_logistic(
    train,
    labels: np.ndarray,
    test,
    extract_features: FeatureExtractor,
    c_values: tuple[float, ...],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Predict class ids int (tests,) by logistic regression on features of texts or vectors.

    weights: of the training rows, (rows,); None: all are equal.
    """
    weights = np.ones(len(labels)) if weights is None else weights

    def fit(features, rows: np.ndarray, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1_000).fit(features, labels[rows], weights[rows])

    num_folds = min(NUM_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    correct = np.zeros(len(c_values))
    if num_folds > 1:
        for fold, rest in StratifiedKFold(num_folds).split(labels, labels):
            features, others = extract_features(select_rows(train, fold), select_rows(train, rest))
            correct += [(fit(features, fold, c).predict(others) == labels[rest]).sum() for c in c_values]
    else:
        correct[len(c_values) // 2] = 1  # a class with one label cannot be cross-validated
    features, others = extract_features(train, test)
    return fit(features, np.arange(len(labels)), c_values[int(correct.argmax())]).predict(others)


def select_rows(rows, indices: np.ndarray):
    """Return the rows at these indices."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]


def predict_from_features(
    train: list[Example], labels: np.ndarray, test: list[Example], fit_features: FitFeatures
) -> np.ndarray:
    """Predict class ids (tests,) by logistic regression on features such as TF-IDF."""

    def extract_features(learned: list[Example], others: list[Example]) -> tuple:
        extract = fit_features(learned)
        return extract(learned), extract(others)

    return predict_logistic(train, labels, test, extract_features, LINEAR_C_VALUES)


def predict_linear_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Predict class ids (tests,) from embeddings, float (texts, width). weights: as for `predict_logistic`."""

    def extract_features(learned: np.ndarray, others: np.ndarray) -> tuple:
        scaler = StandardScaler().fit(learned)
        return scaler.transform(learned), scaler.transform(others)

    return predict_logistic(train, labels, test, extract_features, FROZEN_C_VALUES, weights)
