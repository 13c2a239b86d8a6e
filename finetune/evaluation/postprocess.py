"""Postprocessing after training: fit on the validation set, fold into the weights, compute all metrics."""

from typing import NamedTuple

import numpy as np
from torch import nn

from data.tasks.problem_types import ProblemType


class PredictionOutput(NamedTuple):
    """Predictions and metrics of the postprocessed model."""

    predictions: dict[str, list[np.ndarray]]
    """By split: test and validation."""
    metrics: dict[str, dict[str, float]]
    """By split."""
    details: dict
    """Further results on the test set."""


def postprocess(
    problem_type: ProblemType,
    head: nn.Module | None,
    predictions: dict[str, list[np.ndarray]],
    labels: dict[str, np.ndarray],
    label_names: list[str],
    use_validation: bool,
) -> PredictionOutput:
    """Postprocess the model in `head` (None for a baseline) from its predictions on each split.

    labels: as the problem type's `encode_labels` returns them. use_validation: whether the validation set may be used.
    """
    params = {}
    if use_validation:
        params = problem_type.fit_postprocess(predictions["validation"], labels["validation"], label_names)
    if head is not None:
        head.fold_into_weights(params)
        for key, value in params.items():
            setattr(head.model.config, key, value)
    predictions = {split: problem_type.apply_postprocess(outputs, params) for split, outputs in predictions.items()}
    metrics = {
        split: problem_type.compute_metrics(outputs, labels[split], label_names, params)
        for split, outputs in predictions.items()
    }
    details = {}
    if "test" in labels:
        details = problem_type.test_details(predictions["test"], labels["test"], label_names)
    return PredictionOutput(predictions, metrics, details)
