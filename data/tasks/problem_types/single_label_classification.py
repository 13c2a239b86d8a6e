"""Single-label classification: one of several classes, Example(("a text",), "positive")."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from data.sources.values import get_list, get_scalar, missing_value_error
from data.tasks.problem_types import Decision, ProblemType, has_empty_cell, output_names
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError, suggest

if TYPE_CHECKING:
    from torch import Tensor

MAX_CONFUSION_CLASSES = 100


class SingleLabelClassification(ProblemType):
    """One of several classes; predictions are probabilities, (classes,) for each input."""

    name = transformers_problem_type = "single_label_classification"
    default_head, has_single_class, activation = "classification", True, "softmax"
    metric_for_best, report_metrics = "accuracy", ("accuracy", "f1_macro")
    linear_baseline, export_metric = "logistic regression", "accuracy"
    card_description = "A {input} classifier with the labels {labels}."
    card_limitation = "It always predicts one of its labels, even for {inputs} to which none applies."
    example_title = "Classify {inputs}"
    example_code = """for text, logits in zip(sys.argv[1:], outputs):
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{config['id2label'][str(probabilities.argmax())]}  {probabilities.max():.3f}  {text}")
"""

    def lacks_label(self, row: dict, column: str) -> bool:
        """Return whether the cell of the class is empty."""
        return has_empty_cell(row, column)

    def parse_label(self, row: dict, task: Section, location: str) -> str:
        """Return the class of a row, which may be a list of one."""
        labels = get_list(row, task.label, location)
        label = (labels[0] if labels else get_scalar(row, task.label, location) if labels is None else "").strip()
        if labels and len(labels) > 1:
            kinds = "multi_label_classification or token_classification"
            raise DataError(f"{location}: column {task.label!r} holds a list; set task.problem_type to {kinds}")
        if not label:
            raise missing_value_error(location, "label", task.label)
        if task.label_names and label not in task.label_names and label not in task.label_names.values():
            raise DataError(
                f"{location}: label {label!r} has no name in task.label_names{suggest(label, task.label_names)}"
            )
        return task.label_names.get(label, label)

    def describe_constant_label(self, task: Section, label: str) -> str:
        """Return the error message for training rows that all have this label."""
        return f"every row has the label {label!r}; a classifier needs at least two classes"

    def encode_labels(self, examples: list[Example], label_names: list[str]) -> np.ndarray:
        """Return class ids, int64 (inputs,); of classes that are no output, higher ones, which nothing predicts."""
        names = dict.fromkeys([*label_names, *(example.label for example in examples)])
        ids = {name: index for index, name in enumerate(names)}
        return np.array([ids[example.label] for example in examples], dtype=np.int64)

    def loss(self, logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        """Compute the cross-entropy of logits (inputs, classes) and class ids (inputs,)."""
        from torch.nn import functional as F

        return F.cross_entropy(logits, labels, **options)

    def quick_metrics(self, predictions: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        """Compute accuracy and macro F1."""
        from data.tasks import metrics

        return metrics.classification_metrics(np.argmax(predictions, -1), labels)

    def fit_postprocess(self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
        """Fit the temperature; return {"calibration": {"temperature", ...}}."""
        from data.tasks import calibration

        temperature = calibration.fit_temperature(predictions, labels)
        note = "already in the last linear layer: a plain softmax is calibrated"
        # Not at the top level: there `temperature` is a generation setting, which transformers refuses to save.
        return {"calibration": {"temperature": temperature, "rows": len(labels), "note": note}}

    def apply_postprocess(self, predictions: list[np.ndarray], params: dict) -> np.ndarray:
        """Return the calibrated probabilities, (inputs, classes)."""
        from data.tasks import calibration

        return calibration.apply_temperature(predictions, params["calibration"]["temperature"] if params else 1.0)

    def compute_metrics(
        self, predictions: np.ndarray, labels: np.ndarray, label_names: list[str], params: dict
    ) -> dict:
        """Compute all metrics of the calibrated probabilities, and the calibration error without calibration."""
        from data.tasks import calibration, metrics

        probabilities = np.asarray(predictions)
        results = {
            **metrics.classification_metrics(probabilities.argmax(1), labels, extended=True),
            **metrics.auroc(probabilities, labels[:, None] == np.arange(len(label_names))),
            "ece": metrics.expected_calibration_error(probabilities, labels),
        }
        if params:
            raw = calibration.apply_temperature(probabilities, 1 / params["calibration"]["temperature"])
            results["ece_uncalibrated"] = metrics.expected_calibration_error(raw, labels)
        return results

    def test_details(self, predictions: np.ndarray, labels: np.ndarray, label_names: list[str]) -> dict:
        """Return {"confusion_matrix": {"label_names", "counts"}}, rows are true classes; {} for too many classes."""
        from sklearn.metrics import confusion_matrix

        if len(label_names) > MAX_CONFUSION_CLASSES or not (labels < len(label_names)).any():
            return {}
        counts = confusion_matrix(labels, np.argmax(predictions, 1), labels=range(len(label_names)))
        return {"confusion_matrix": {"label_names": label_names, "counts": counts.tolist()}}

    def fit_linear_model(self, c: float, features: np.ndarray, labels: np.ndarray, label_names: list[str]) -> Callable:
        """Fit logistic regression; the function returns probabilities, (inputs, classes)."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=c, max_iter=1_000).fit(features, labels)

        def predict_proba(rows) -> np.ndarray:
            probabilities = np.zeros((rows.shape[0], len(label_names)))
            probabilities[:, model.classes_] = model.predict_proba(rows)
            return probabilities

        return predict_proba

    def decode_outputs(self, outputs: list[np.ndarray], config: dict, word_starts: list | None = None) -> list[str]:
        """Return the most probable class of each input."""
        names = output_names(config)
        return [names[int(logits.argmax())] for logits in outputs]

    def list_decisions(
        self, output: np.ndarray, names: list[str], config: dict, first_tokens: np.ndarray | None = None
    ) -> list[Decision]:
        """Return the most probable class."""
        best = int(output.argmax())
        return [Decision(names[best], None, float(output[best]))]

    def score_predictions(self, predictions: list[str], labels: list[str]) -> float:
        """Compute the accuracy."""
        return sum(one == other for one, other in zip(predictions, labels, strict=True)) / len(predictions)


PROBLEM_TYPE = SingleLabelClassification()
