"""Metrics as `evaluate` modules of our own: those of the library are scripts on a hub, and these work offline."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score


class ClassMetric(evaluate.Metric):
    """A metric of predicted and true class ids."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation="", inputs_description="class ids",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}))


class Accuracy(ClassMetric):
    """Share of the texts whose class is right."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(ClassMetric):
    """F1 of each class, averaged with equal weight; a class neither present nor predicted is left out."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0))}


def classification(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """{"accuracy", "f1_macro", "n"} of class ids, each int (texts,)."""
    metrics = evaluate.combine([Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)])
    return {**metrics.compute(predictions=predictions, references=references), "n": len(references)}
