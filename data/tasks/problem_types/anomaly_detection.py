"""Anomaly detection: normal rows are known, and rows unlike them are to be found. Example(("a text",), "functional").

A label is the class of a row. `head.normal` names the normal class, and every other class is anomalous, also one that
no training row has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from data.tasks.problem_types.single_label_classification import SingleLabelClassification
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

NORMAL, ANOMALOUS = "normal", "anomalous"
NUM_NEIGHBORS = 5  # of the baseline
REPORTED_FALSE_ALARMS = 0.05  # of "recall_at_5_fpr", whatever threshold the head has


class AnomalyDetection(SingleLabelClassification):
    """The score of an input, higher for one less like the normal rows; labels are 0, or 1 for anomalous."""

    name, default_head, activation = "anomaly_detection", "anomaly", "none"
    has_single_class, is_detector, has_open_labels, tunes_linear_model = False, True, True, False
    transformers_problem_type = None
    metric_for_best = "auroc"
    report_metrics = ("auroc", "average_precision", "recall_at_5_fpr")
    linear_baseline, export_metric = "nearest neighbors", "AUROC"
    fitted, rows_noun = "distance to normal rows", "normal rows"
    usage_template = "publish/card/anomaly_usage.md"
    card_description = "An anomaly detector: it scores how unlike the normal class, `{labels}`, a {input} is."
    card_limitation = (
        "It knows normal {inputs} alone: whatever is unlike them gets a high score, whether it matters or not, and what"
        " looks normal to the encoder gets a low one. The threshold holds for {inputs} like the held-out normal ones."
    )
    example_title, example_code = "Score {inputs}", ""

    def __init__(self, false_alarms: float = 0.05):
        self.false_alarms = false_alarms

    def configure(self, head: Section) -> AnomalyDetection:
        """Return the problem type with the head's share of false alarms."""
        return AnomalyDetection(getattr(head, "false_alarms", self.false_alarms))

    def known_labels(self, task: Section, train: list[Example], location: str) -> set[str]:
        """Return the labels of the training rows; one is enough."""
        return {name for example in train for name in example.label_names}

    def encode_labels(self, examples: list[Example], label_names: list[str]) -> np.ndarray:
        """Return 0 for the normal class, the only one of `label_names`, and 1 for others, int64 (inputs,)."""
        return np.array([example.label != label_names[0] for example in examples], dtype=np.int64)

    def loss(self, logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        """Raise DataError: there is nothing to train."""
        raise DataError(f"task.problem_type={self.name} trains nothing; use head.name={self.default_head}")

    def quick_metrics(self, predictions: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        """Compute all metrics but those of the threshold."""
        return self.compute_metrics(predictions, labels, [], {})

    def fit_postprocess(self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
        """Return {}: the threshold follows from the training rows."""
        return {}

    def find_threshold(self, scores: np.ndarray) -> float:
        """Return what a row like these normal ones exceeds with a probability of at most `false_alarms`.

        scores: of held-out rows, (rows,). That holds whatever the distribution of the scores (Laxhammar and Falkman
        2010).
        """
        return float(np.sort(scores)[self.find_rank(len(scores)) - 1])

    def find_rank(self, num_rows: int) -> int:
        """Return which of so many scores, in order, is the threshold. Raises DataError if they are too few."""
        rank = int(np.ceil((1 - self.false_alarms) * (num_rows + 1) - 1e-9))
        if rank > num_rows:
            needed = int(np.ceil(1 / self.false_alarms - 1e-9)) - 1
            raise DataError(
                f"head.false_alarms: {self.false_alarms:g} takes {needed:,} normal training rows or more, and there are"
                f" {num_rows:,}; raise it"
            )
        return rank

    def apply_postprocess(self, predictions: list[np.ndarray], params: dict) -> np.ndarray:
        """Return the scores, (inputs,)."""
        return np.ravel(predictions)

    def compute_metrics(
        self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str], params: dict
    ) -> dict[str, float]:
        """Compute the metrics of the ranking, if there are rows of both kinds, and of the threshold."""
        from sklearn.metrics import average_precision_score

        from data.tasks import metrics

        scores, is_anomalous = np.ravel(predictions), labels == 1
        results: dict[str, float] = {"n": len(labels), "n_anomalous": int(is_anomalous.sum())}
        if is_anomalous.any() and not is_anomalous.all():
            results |= metrics.auroc(scores[:, None], labels[:, None])
            results["average_precision"] = float(average_precision_score(labels, scores))
            normal = np.sort(scores[~is_anomalous])
            cut = normal[len(normal) - 1 - int(REPORTED_FALSE_ALARMS * len(normal))]
            results["recall_at_5_fpr"] = float((scores[is_anomalous] > cut).mean())
        if params:
            above = scores > params["threshold"]
            if is_anomalous.any():
                results["recall"] = float(above[is_anomalous].mean())
            if not is_anomalous.all():
                results["false_alarm_rate"] = float(above[~is_anomalous].mean())
        return results

    def list_report_metrics(self, metrics: dict) -> tuple[str, ...]:
        """List the metrics of the ranking, or the one that there is if all test rows are normal, or all anomalous."""
        if "auroc" in metrics:
            return self.report_metrics
        return ("false_alarm_rate",) if "false_alarm_rate" in metrics else ("recall",)

    def test_details(self, predictions: np.ndarray, labels: np.ndarray, label_names: list[str]) -> dict:
        """Return {}: the confusion matrix depends on the threshold, of which the metrics are."""
        return {}

    def fit_linear_model(self, c: float, features: np.ndarray, labels: np.ndarray, label_names: list[str]) -> Callable:
        """Return a function to the mean distance of features to the nearest normal ones, (inputs,); c is not used."""
        from sklearn.neighbors import NearestNeighbors

        normal = features[np.flatnonzero(labels == 0)]
        neighbors = NearestNeighbors(n_neighbors=min(NUM_NEIGHBORS, normal.shape[0])).fit(normal)
        return lambda rows: neighbors.kneighbors(rows)[0].mean(1)


PROBLEM_TYPE = AnomalyDetection()
