"""Shares of classes in a set of unlabeled rows, corrected for a model's known errors (quantification).

Counting predictions is biased toward the shares in training: a class that became rare still gets the errors of the
others. The corrected shares are those under which the classes' mean probabilities on held-out rows mix to the mean on
the rows (probabilistic adjusted count, Bella et al. 2010). On sentences, they are closer than expectation maximization
(Saerens et al. 2002), which needs perfect calibration.
"""

import numpy as np
from scipy.optimize import nnls

SUM_WEIGHT = 100.0  # of the equation by which shares add up to 1
NUM_RESAMPLES, INTERVAL = 100, 0.95
MAX_RESAMPLED_ROWS = 5_000


def mean_by_class(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean probabilities of the rows of each class as columns, (classes, classes); certain without rows."""
    means = np.eye(probabilities.shape[1])
    for index in np.unique(labels):
        means[:, index] = probabilities[labels == index].mean(0)
    return means


def fit_shares(mean: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the shares, (classes,), with which the columns of `means` mix to a mean, (classes,), by least squares."""
    equations = np.vstack([means, np.full(len(mean), SUM_WEIGHT)])
    shares, _ = nnls(equations, np.append(mean, SUM_WEIGHT))
    return shares / shares.sum()


def estimate_shares(
    probabilities: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of classes and the ends of their intervals, each (classes,).

    probabilities: of the rows, (rows, classes); held_out: of rows with the class ids `labels`. Intervals are those of
    both resampled, held-out rows by class (percentile bootstrap), so few held-out rows give wide ones.
    """
    probabilities, held_out = probabilities.astype(np.float64), held_out.astype(np.float64)
    shares = fit_shares(probabilities.mean(0), mean_by_class(held_out, labels))
    rows_by_class = [np.flatnonzero(labels == index) for index in np.unique(labels)]
    rng, size = np.random.default_rng(0), min(len(probabilities), MAX_RESAMPLED_ROWS)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        known = np.concatenate([rng.choice(rows, len(rows)) for rows in rows_by_class])
        mean = probabilities[rng.integers(len(probabilities), size=size)].mean(0)
        resampled.append(fit_shares(mean, mean_by_class(held_out[known], labels[known])))
    low, high = np.quantile(resampled, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    return shares, np.minimum(low, shares), np.maximum(high, shares)
