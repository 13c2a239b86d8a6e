"""After training: what is fitted on the validation rows, what is written into the weights, and all figures.

A head file may have, besides what every head has:

    tune(said, truth, names) -> dict        fitted on the validation rows; goes into the model's config.json
    revise(said, tuned)                     what the finished model says, where `tune` changes it
    finish(head, tuned)                     writes into the weights what plain transformers would not know of
    figures(said, truth, names, tuned)      all figures; without it, those of `score`
    details(said, truth, names) -> dict     what else metrics.json tells of the test rows
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from torch import nn


class PredictionOutput(NamedTuple):
    """What is known of a model at the end."""

    predictions: dict[str, list[np.ndarray]]
    """What it says of the test and the validation rows."""
    metrics: dict[str, dict[str, float]]
    """Of both."""
    details: dict
    """What else there is to tell of the test rows."""


def postprocess(
    head_file: ModuleType,
    head: nn.Module | None,
    predictions: dict[str, list[np.ndarray]],
    labels: dict[str, np.ndarray],
    label_names: list[str],
    use_validation: bool,
) -> PredictionOutput:
    """Finish the model in `head`, none of a baseline's, by what it said of each split.

    labels: as the head's `targets` makes it. use_validation: whether the validation rows may be used.
    """

    def has(name: str) -> bool:
        return hasattr(head_file, name)

    tuned = (
        head_file.fit_postprocess(predictions["validation"], labels["validation"], label_names)
        if use_validation and has("fit_postprocess")
        else {}
    )
    if head is not None:
        if has("fold_into_weights"):
            head_file.fold_into_weights(head, tuned)
        for key, value in tuned.items():
            setattr(head.model.config, key, value)
    if has("apply_postprocess"):
        predictions = {split: head_file.apply_postprocess(said, tuned) for split, said in predictions.items()}
    figures = {
        split: head_file.compute_metrics(said, labels[split], label_names, tuned)
        if has("compute_metrics")
        else head_file.quick_metrics(said, labels[split])
        for split, said in predictions.items()
    }
    return PredictionOutput(
        predictions,
        figures,
        head_file.details(predictions["test"], labels["test"], label_names)
        if has("details") and "test" in labels
        else {},
    )
