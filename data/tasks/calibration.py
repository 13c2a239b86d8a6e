"""Temperature scaling: calibrate a classifier's confidence (Guo et al. 2017)."""

import numpy as np
from scipy.optimize import minimize_scalar

MAX_FIT_PROBABILITIES = 10**7  # number of probabilities to fit a temperature on
TEMPERATURE_BOUNDS = (0.05, 20.0)


def to_logits(probabilities: list[np.ndarray]) -> np.ndarray:
    """Return log-probabilities less each text's largest, float64 (texts, classes), finite even for zeros."""
    logs = np.log(np.array(probabilities, dtype=np.float64).clip(1e-38))
    return logs - logs.max(1, keepdims=True)


def fit_temperature(probabilities: list[np.ndarray], labels: np.ndarray) -> float:
    """Return the temperature that maximizes the likelihood of class ids (texts,) under probabilities (texts, classes).

    1 if all predictions are right: the likelihood then has no maximum.
    """
    step = -(-len(labels) * len(probabilities[0]) // MAX_FIT_PROBABILITIES)
    logs, labels = to_logits(probabilities[::step]), labels[::step]
    if (logs.argmax(1) == labels).all():
        return 1.0
    label_logs = logs[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float((np.log(np.exp(logs * factor).sum(1)) - label_logs * factor).mean())

    bounds, options = np.log(TEMPERATURE_BOUNDS), {"xatol": 1e-4}
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options=options).x))


def apply_temperature(probabilities: list[np.ndarray], temperature: float) -> np.ndarray:
    """Return the probabilities after dividing the logits by the temperature, float64 (texts, classes)."""
    scaled = np.exp(to_logits(probabilities) / temperature)
    return scaled / scaled.sum(1, keepdims=True)
