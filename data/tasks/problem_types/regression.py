"""Regression: a number, Example(("a text", "another"), 3.5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from data.sources.values import get_scalar
from data.tasks.problem_types import ProblemType, has_empty_cell
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Regression(ProblemType):
    """A number; a prediction is the number for each input."""

    name = transformers_problem_type = default_head = "regression"
    activation = "none"
    metric_for_best, report_metrics = "spearman", ("spearman", "pearson", "rmse")
    linear_baseline, export_metric = "ridge regression", "Spearman"
    card_description = "A regression model that predicts `{labels}` for a {input}."
    card_limitation = (
        "Its predictions are on the scale of the training labels and unreliable outside their range. If config.json has"
        " `label_scale`, a prediction is the model's output times `std` plus `mean`."
    )
    example_title = "Predict a number for each of some {inputs}"
    example_code = """scale = config.get("label_scale", {"mean": 0, "std": 1})
for text, number in zip(sys.argv[1:], outputs[:, 0]):
    print(f"{number * scale['std'] + scale['mean']:.4f}  {text}")
"""

    def lacks_label(self, row: dict, column: str) -> bool:
        """Return whether the cell of the number is empty."""
        return has_empty_cell(row, column)

    def parse_label(self, row: dict, task: Section, location: str) -> float:
        """Return the number of a row; `label_names` may map words to numbers."""
        text = get_scalar(row, task.label, location).strip()
        try:
            value = float(task.label_names.get(text, text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{location}: {text!r} in column {task.label!r} is not a finite number")
        return value

    def list_label_names(self, task: Section, present: set[str]) -> list[str]:
        """Return the column of the numbers."""
        return [task.label]

    def encode_labels(self, examples: list[Example], label_names: list[str]) -> np.ndarray:
        """Return the numbers, float64 (inputs,)."""
        return np.array([example.label for example in examples], dtype=np.float64)

    def loss(self, logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        """Compute the squared error of logits and numbers, each (inputs,)."""
        from torch.nn import functional as F

        return F.mse_loss(logits, labels, **options)

    def quick_metrics(self, predictions: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        """Compute the correlations and the root of the mean squared error."""
        from data.tasks import metrics

        return metrics.regression_metrics(predictions, labels)

    def fit_linear_model(self, c: float, features: np.ndarray, labels: np.ndarray, label_names: list[str]) -> Callable:
        """Fit ridge regression; the function returns numbers, (inputs,)."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / c).fit(features, labels).predict

    def decode_outputs(self, outputs: list[np.ndarray], config: dict, word_starts: list | None = None) -> list[float]:
        """Return the number of each input."""
        scale = config.get("label_scale") or {"mean": 0.0, "std": 1.0}
        return [float(logits[0]) * scale["std"] + scale["mean"] for logits in outputs]

    def score_predictions(self, predictions: list[float], labels: list[float]) -> float:
        """Compute Spearman's correlation, 0 for constant numbers."""
        from scipy.stats import spearmanr

        if not (np.ptp(predictions) and np.ptp(labels)):
            return 0.0
        return float(spearmanr(predictions, labels).statistic)

    def agreement(self, predictions: list, reference: list) -> None:
        """Return None: numbers are never exactly equal."""


PROBLEM_TYPE = Regression()
