"""Predict in bf16, and again in float32 those inputs that bf16 might decide differently.

The error of bf16 is measured, on some inputs of each part, as a standard deviation of logits. An input is predicted
again if its decision would change within SAFETY of them.
"""

from __future__ import annotations

import numpy as np
from accelerate import Accelerator

from data.classifier import Classifier
from data.tasks.problem_types import ProblemType
from engine.models.embed import Inputs, Subset, run_batches

NUM_COMPARED = 32  # inputs of a part to predict in both precisions
SAFETY = 8  # on 2,048 sentences, the largest error was 4 standard deviations
MIN_INPUTS = 8 * NUM_COMPARED
EXACT_BATCH_SIZE = 8  # few inputs of very different lengths: larger batches are mostly padding
SMALLEST, SMALLEST_GAP = 1e-30, 1e-12  # probabilities from 0 and from 1, so that logits are finite


def relative_logits(output: np.ndarray, problem_type: ProblemType, config: dict) -> np.ndarray:
    """Return logits by which an output decides, as large as `output`: one decides by the highest, or by their sign."""
    probabilities = np.clip(output.astype(np.float64), SMALLEST, 1)
    if problem_type.activation == "softmax":
        logits = np.log(probabilities)
        return logits - logits.mean(-1, keepdims=True)
    thresholds = np.clip(problem_type.list_thresholds(config), SMALLEST, 1 - SMALLEST_GAP)
    return np.log(probabilities / np.maximum(1 - probabilities, SMALLEST)) - np.log(thresholds / (1 - thresholds))


def measure_lead(logits: np.ndarray, activation: str) -> float:
    """Return the smallest change of a logit, or of a difference of two, that changes a decision."""
    if activation == "softmax":
        highest = np.sort(logits, -1)[..., -2:]
        return float((highest[..., -1] - highest[..., 0]).min())
    return float(np.abs(logits).min())


def predict_inputs(
    classifier: Classifier, inputs: Inputs, accelerator: Accelerator, batch_size: int
) -> list[np.ndarray]:
    """Return `classifier.predict` of each input; decisions are those of float32.

    Numbers, which have no decision to compare, and few inputs are computed in float32.
    """
    problem_type, config = classifier.problem_type, classifier.config
    is_worth_it = problem_type.activation != "none" and len(inputs.lengths) >= MIN_INPUTS
    if accelerator.mixed_precision == "no" or not is_worth_it:
        return run_batches(classifier, inputs, accelerator, batch_size, autocast=False)
    outputs = run_batches(classifier, inputs, accelerator, batch_size)
    order = np.argsort(inputs.lengths, kind="stable")
    compared = order[np.linspace(0, len(order) - 1, min(NUM_COMPARED, len(order))).round().astype(int)]

    def predict_again(indices: np.ndarray) -> list[np.ndarray]:
        return run_batches(classifier, Subset(inputs, indices), accelerator, EXACT_BATCH_SIZE, autocast=False)

    def get_logits(output: np.ndarray) -> np.ndarray:
        return relative_logits(classifier.split_output(output)[0], problem_type, config)

    logits = list(map(get_logits, outputs))
    exact = predict_again(compared)
    errors = [(get_logits(output) - logits[index]).ravel() for index, output in zip(compared, exact, strict=True)]
    # The error of a difference of two logits is larger by the root of 2.
    tolerance = SAFETY * float(np.sqrt(2 * np.square(np.concatenate(errors)).mean()))
    leads = np.array([measure_lead(values, problem_type.activation) for values in logits])
    close = np.setdiff1d(np.flatnonzero(~(leads > tolerance)), compared)
    for indices, again in ((compared, exact), (close, predict_again(close) if len(close) else [])):
        for index, output in zip(indices, again, strict=True):
            outputs[index] = output
    return outputs
