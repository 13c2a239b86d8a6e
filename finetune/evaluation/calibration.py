"""How sure a classifier is, brought to how often it is right: temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

MAX_FIT_PROBABILITIES = 10**7  # probabilities that a temperature is fitted on
TEMPERATURE_BOUNDS = (0.05, 20.0)


def to_logits(probabilities: list[np.ndarray]) -> np.ndarray:
    """float64 (texts, classes): logarithms less each text's largest, finite where a probability was too small to be written."""
    logs = np.log(np.array(probabilities, dtype=np.float64).clip(1e-38))
    return logs - logs.max(1, keepdims=True)


def fit_temperature(probabilities: list[np.ndarray], labels: np.ndarray) -> float:
    """What the logits are to be divided by so that these classes, int (texts,), are likeliest; probabilities (texts, classes).

    Where all are right, the likelihood would have all confidence there is, and nothing tells how much; it is then 1.
    """
    few = slice(None, None, -(-len(labels) * len(probabilities[0]) // MAX_FIT_PROBABILITIES))
    logs, labels = to_logits(probabilities[few]), labels[few]
    if (logs.argmax(1) == labels).all():
        return 1.0

    own = logs[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float((np.log(np.exp(logs * factor).sum(1)) - own * factor).mean())

    return float(
        np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded", options={"xatol": 1e-4}).x)
    )


def apply_temperature(probabilities: list[np.ndarray], temperature: float) -> np.ndarray:
    """float64 (texts, classes): the probabilities of logits divided by `fit_temperature`; their order stays what it is."""
    shares = np.exp(to_logits(probabilities) / temperature)
    return shares / shares.sum(1, keepdims=True)
