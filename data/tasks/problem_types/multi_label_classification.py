"""Multi-label classification: any number of labels, Example(("a text",), ("Humans", "Adult")), () if none applies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from data.sources.values import get_list, get_scalar
from data.tasks.problem_types import Decision, ProblemType, output_names
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

TRUE_VALUES, FALSE_VALUES = {"1", "1.0", "true"}, {"0", "0.0", "false"}  # in lower case
BINARY_VALUES = TRUE_VALUES | FALSE_VALUES
DEFAULT_THRESHOLD = 0.5  # for labels without a validation example


class MultiLabelClassification(ProblemType):
    """Any number of labels; predictions are probabilities, (labels,) for each input."""

    name = transformers_problem_type = "multi_label_classification"
    default_head, activation = "multilabel", "sigmoid"
    metric_for_best, report_metrics = "f1_macro", ("f1_macro", "f1_micro", "exact_match")
    linear_baseline, export_metric = "one logistic regression a label", "micro F1"
    card_description = (
        "A multi-label {input} classifier with the labels {labels}. A label applies from a probability of 0.5 on or, if"
        " `config.json` holds `thresholds`, from its own, which was tuned on the validation set."
    )
    card_limitation = "It predicts only the labels listed above."
    pipeline_options = ", top_k=None"
    example_title = "Predict the labels of {inputs}"
    example_code = """for text, probabilities in zip(sys.argv[1:], 1 / (1 + np.exp(-outputs))):
    named = {config["id2label"][str(index)]: probability for index, probability in enumerate(probabilities)}
    print([name for name, value in named.items() if value >= config.get("thresholds", {}).get(name, 0.5)], text)
"""

    def parse_label(self, row: dict, task: Section, location: str) -> tuple[str, ...]:
        """Return the distinct labels of a row: a list, also multi-hot, a separated string, or a column for each."""
        if not isinstance(task.label, str):
            return tuple(column for column in task.label if read_flag(row, column, location))
        parts = get_list(row, task.label, location)
        if parts is None:
            parts = get_scalar(row, task.label, location).split(task.label_separator)
        labels = [label for label in map(str.strip, parts) if label]
        is_binary = BINARY_VALUES.issuperset(map(str.lower, labels))
        if len(labels) == len(task.label_names) > 2 and is_binary:  # no list of class numbers
            pairs = zip(labels, task.label_names.values(), strict=True)
            return tuple(name for label, name in pairs if label.lower() in TRUE_VALUES)
        if len(labels) > len(set(labels)) and is_binary:
            raise DataError(
                f"{location}: column {task.label!r} holds zeros and ones, one for each label (multi-hot);"
                " set task.label_names to the names of three labels or more, in order, as [a, b, c],"
                " or write the labels that apply"
            )
        if task.label_names:
            labels = [task.label_names[label] for label in labels if label in task.label_names]
        return tuple(dict.fromkeys(labels))

    def known_labels(self, task: Section, train: list[Example], location: str) -> set[str]:
        """Return the labels of the training rows. Raises DataError if one of `label_names` is not among them."""
        known = super().known_labels(task, train, location)
        has_columns = not isinstance(task.label, str)
        for name in task.label if has_columns else task.label_names.values():
            if name not in known:
                key = "task.label; leave it out" if has_columns else "task.label_names"
                raise DataError(f"{location}: no training row has the label {name!r} of {key}")
        return known

    def list_label_names(self, task: Section, present: set[str]) -> list[str]:
        """List the labels, in the order of their columns if each has one."""
        return super().list_label_names(task, present) if isinstance(task.label, str) else list(task.label)

    def describe_constant_label(self, task: Section, label: tuple[str, ...]) -> str:
        """Return the error message for training rows that all have these labels."""
        if label:
            return super().describe_constant_label(task, label)
        return f"no row has a label in column {task.label!r}" + " that task.label_names lists" * bool(task.label_names)

    def encode_labels(self, examples: list[Example], label_names: list[str]) -> np.ndarray:
        """Return uint8 (inputs, labels): 1 where an input has a label."""
        ids = {name: index for index, name in enumerate(label_names)}
        encoded = np.zeros((len(examples), len(label_names)), dtype=np.uint8)
        for row, example in enumerate(examples):
            encoded[row, [ids[name] for name in example.label]] = 1
        return encoded

    def loss(self, logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        """Compute the binary cross-entropy of logits and labels of zeros and ones, each (inputs, labels)."""
        from torch.nn import functional as F

        return F.binary_cross_entropy_with_logits(logits, labels.float(), **options)

    def quick_metrics(self, predictions: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        """Compute F1 at the best thresholds."""
        from data.tasks import metrics

        # At 0.5, rare labels stay unpredicted for long, and evaluations do not differ.
        names = [str(index) for index in range(labels.shape[1])]
        decisions = apply_thresholds(predictions, names, self.fit_postprocess(predictions, labels, names))
        return {**metrics.multilabel_f1(decisions, labels), "n": len(labels)}

    def fit_postprocess(self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
        """Return {"thresholds": {label: probability}} with the best F1 of each label on these rows."""
        columns = zip(label_names, np.array(predictions).T, labels.T, strict=True)
        return {"thresholds": {name: best_f1_threshold(column, true) for name, column, true in columns}}

    def compute_metrics(
        self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str], params: dict
    ) -> dict[str, float]:
        """Compute all metrics at the fitted thresholds; exact match is the fraction of inputs without a mistake."""
        from data.tasks import metrics

        decisions = apply_thresholds(predictions, label_names, params)
        return {
            **metrics.multilabel_f1(decisions, labels),
            **metrics.auroc(np.array(predictions), labels),
            "exact_match": float((decisions == labels.astype(bool)).all(1).mean()),
            "n": len(labels),
        }

    def fit_linear_model(self, c: float, features: np.ndarray, labels: np.ndarray, label_names: list[str]) -> Callable:
        """Fit a logistic regression for each label; the function returns probabilities, (inputs, labels)."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about labels that no text has, or every text
            binary = LogisticRegression(C=c, max_iter=1_000, class_weight="balanced")
            model = OneVsRestClassifier(binary).fit(features, labels)
        # Two columns, no and yes, for a single label.
        return lambda rows: model.predict_proba(rows)[:, -len(label_names) :]

    def decode_outputs(
        self, outputs: list[np.ndarray], config: dict, word_starts: list | None = None
    ) -> list[frozenset[str]]:
        """Return the labels of each input with at least their threshold's probability."""
        names, thresholds = output_names(config), self.list_thresholds(config)
        return [frozenset(np.array(names)[1 / (1 + np.exp(-logits)) >= thresholds].tolist()) for logits in outputs]

    def list_decisions(
        self, output: np.ndarray, names: list[str], config: dict, first_tokens: np.ndarray | None = None
    ) -> list[Decision]:
        """Return the labels with at least their threshold's probability."""
        triples = zip(names, output.tolist(), self.list_thresholds(config), strict=True)
        return [Decision(name, None, value) for name, value, threshold in triples if value >= threshold]

    def list_thresholds(self, config: dict) -> np.ndarray:
        """Return the threshold of each label."""
        thresholds = config.get("thresholds") or {}
        return np.array([thresholds.get(name, DEFAULT_THRESHOLD) for name in output_names(config)])

    def list_true_keys(self, label: tuple[str, ...]) -> set[tuple]:
        """Return a key for each label."""
        return {(name, None) for name in label}

    def score_predictions(self, predictions: list[frozenset[str]], labels: list) -> float:
        """Compute micro F1."""
        correct = sum(len(prediction & set(label)) for prediction, label in zip(predictions, labels, strict=True))
        return 2 * correct / max(1, sum(map(len, predictions)) + sum(map(len, labels)))


def read_flag(row: dict, column: str, location: str) -> bool:
    """Return whether the label of a column applies to a row. Raises DataError for anything but 0, 1 or nothing."""
    value = get_scalar(row, column, location).strip()
    if value and value.lower() not in BINARY_VALUES:
        raise DataError(f"{location}: column {column!r} holds {value!r}; a column for each label holds 0 or 1")
    return value.lower() in TRUE_VALUES


def best_f1_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the best F1 on these inputs, each (inputs,), halfway to the next lower probability."""
    if not labels.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    descending, hits = probabilities[order], np.cumsum(labels[order], dtype=np.int64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    is_last = np.append(descending[:-1] > descending[1:], True)  # inputs of equal probability get the same decision
    best = int(np.argmax(np.where(is_last, f1, -1)))
    following = descending[best + 1] if best + 1 < len(hits) else 0.0
    return float((float(descending[best]) + float(following)) / 2)


def apply_thresholds(probabilities: list[np.ndarray], label_names: list[str], params: dict) -> np.ndarray:
    """Return the predicted labels, bool (inputs, labels), by the fitted thresholds or the default one."""
    thresholds = [params["thresholds"][name] for name in label_names] if params else DEFAULT_THRESHOLD
    return np.array(probabilities) >= np.array(thresholds)


PROBLEM_TYPE = MultiLabelClassification()
