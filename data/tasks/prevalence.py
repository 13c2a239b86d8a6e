"""Shares of classes in a set of unlabeled rows, corrected for a model's known errors (quantification).

Counting predictions is biased toward the shares in training: a class that became rare still gets the errors of the
others. Expectation maximization finds the shares under which the probabilities agree with their own mean (Saerens et
al. 2002), after the held-out rows have corrected the probabilities' temperature and a bias of each class (Alexandari et
al. 2020); intervals come from resampled held-out rows.
"""

import numpy as np
from scipy.optimize import minimize

MAX_ITERATIONS, TOLERANCE = 1_000, 1e-5
BIAS_PENALTY = 1.0  # keeps the bias of a class with few held-out rows small
NUM_RESAMPLES, INTERVAL = 100, 0.95
MAX_RESAMPLED_ROWS = 5_000


def fit_shares(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return the shares of classes, (classes,), from probabilities, (rows, classes).

    prior: the shares under which the probabilities are calibrated.
    """
    shares = prior.copy()
    for _ in range(MAX_ITERATIONS):
        weighted = probabilities * (shares / prior)
        updated = (weighted / weighted.sum(1, keepdims=True)).mean(0)
        if np.abs(updated - shares).max() < TOLERANCE:
            return updated
        shares = updated
    return shares


def fit_bias(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return [inverse temperature, bias of each class] of the greatest likelihood of class ids, (rows,)."""
    logs, num_classes = np.log(probabilities), probabilities.shape[1]
    targets = labels[:, None] == np.arange(num_classes)

    def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
        adjusted = apply_bias(probabilities, params)
        difference = adjusted - targets
        value = -np.log(adjusted[targets]).sum() + BIAS_PENALTY / 2 * np.square(params[1:]).sum()
        gradient = np.append((difference * logs).sum(), difference.sum(0) + BIAS_PENALTY * params[1:])
        return value, gradient

    start = np.append(1.0, np.zeros(num_classes))
    return minimize(loss, start, jac=True, bounds=[(0.05, 20), *[(-5, 5)] * num_classes]).x


def apply_bias(probabilities: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Return the probabilities, (rows, classes), with the parameters of `fit_bias`."""
    logits = np.log(probabilities) * params[0] + params[1:]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.clip(exponentials / exponentials.sum(1, keepdims=True), 1e-12, 1)


def estimate_shares(
    probabilities: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of classes and the ends of their intervals, each (classes,).

    probabilities: of the rows, (rows, classes); held_out: of rows with the class ids `labels`. The errors of the
    estimate are those on held-out rows that are resampled to the estimated shares.
    """
    probabilities, held_out = (np.clip(values.astype(np.float64), 1e-9, 1) for values in (probabilities, held_out))
    num_classes = probabilities.shape[1]
    prior = np.bincount(labels, minlength=num_classes) + 0.5
    prior = prior / prior.sum()
    params = fit_bias(held_out, labels)
    probabilities, held_out = apply_bias(probabilities, params), apply_bias(held_out, params)
    shares = fit_shares(probabilities, prior)
    rng, errors = np.random.default_rng(0), []
    rows = [np.flatnonzero(labels == index) for index in range(num_classes)]
    there = np.array([len(found) > 0 for found in rows])
    target = np.where(there, shares, 0)
    if target.sum() <= 0:
        return shares, np.zeros(num_classes), np.ones(num_classes)
    target = target / target.sum()
    size = min(len(probabilities), MAX_RESAMPLED_ROWS)
    for _ in range(NUM_RESAMPLES):
        # A resampled set of held-out rows stands for what is known of the errors, however many rows are predicted.
        known = [rng.choice(found, len(found)) if len(found) else found for found in rows]
        counts = rng.multinomial(size, target)
        sample = np.concatenate([rng.choice(known[i], n) for i, n in enumerate(counts) if n])
        errors.append(fit_shares(held_out[sample], prior) - target)
    low, high = np.quantile(errors, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    return shares, np.clip(shares - high, 0, shares), np.clip(shares - low, shares, 1)
