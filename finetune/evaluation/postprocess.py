"""Postprocessing after training: fit on the validation set, fold into the weights, compute all metrics.

A head file may define, in addition to what every head has:

    fit_postprocess(predictions, labels, label_names) -> params    fitted on the validation set; saved in config.json
    apply_postprocess(predictions, params)         predictions of the postprocessed model
    fold_into_weights(head, params)                put into the weights what plain transformers ignores
    compute_metrics(predictions, labels, label_names, params)    all metrics; default: `quick_metrics`
    details(predictions, labels, label_names) -> dict              further test results for metrics.json
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np
from torch import nn


class PredictionOutput(NamedTuple):
    """Predictions and metrics of the postprocessed model."""

    predictions: dict[str, list[np.ndarray]]
    """By split: test and validation."""
    metrics: dict[str, dict[str, float]]
    """By split."""
    details: dict
    """Further results on the test set."""


def postprocess(
    head_file: ModuleType,
    head: nn.Module | None,
    predictions: dict[str, list[np.ndarray]],
    labels: dict[str, np.ndarray],
    label_names: list[str],
    use_validation: bool,
) -> PredictionOutput:
    """Postprocess the model in `head` (None for a baseline) from its predictions on each split.

    labels: as the head's `encode_labels` returns them. use_validation: whether the validation set may be used.
    """
    params = {}
    if use_validation and hasattr(head_file, "fit_postprocess"):
        params = head_file.fit_postprocess(predictions["validation"], labels["validation"], label_names)
    if head is not None:
        if hasattr(head_file, "fold_into_weights"):
            head_file.fold_into_weights(head, params)
        for key, value in params.items():
            setattr(head.model.config, key, value)
    if hasattr(head_file, "apply_postprocess"):
        predictions = {split: head_file.apply_postprocess(outputs, params) for split, outputs in predictions.items()}
    if hasattr(head_file, "compute_metrics"):
        metrics = {
            split: head_file.compute_metrics(outputs, labels[split], label_names, params)
            for split, outputs in predictions.items()
        }
    else:
        metrics = {split: head_file.quick_metrics(outputs, labels[split]) for split, outputs in predictions.items()}
    details = {}
    if hasattr(head_file, "details") and "test" in labels:
        details = head_file.details(predictions["test"], labels["test"], label_names)
    return PredictionOutput(predictions, metrics, details)
