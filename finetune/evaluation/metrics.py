"""Metrics as `evaluate` modules of our own: those of the library are scripts on a hub, and these work offline."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from scipy.stats import spearmanr
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score


class ClassificationMetric(evaluate.Metric):
    """A metric of predicted and true class ids."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="class ids",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )


class Accuracy(ClassificationMetric):
    """Share of the texts whose class is right."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(ClassificationMetric):
    """F1 of each class, averaged with equal weight; a class neither present nor predicted is left out."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0))}


class MicroF1(ClassificationMetric):
    """F1 of all decisions together, which is the accuracy where each text has one class."""

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"f1_micro": float(f1_score(references, predictions, average="micro", zero_division=0))}


class MatthewsCorrelation(ClassificationMetric):
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where one side has a single class."""

    def _compute(self, predictions, references) -> dict[str, float]:
        # From the margins alone: a table of 10,000 classes by 10,000 would not fit.
        predictions, references, n = np.array(predictions), np.array(references), len(references)
        classes = max(predictions.max(), references.max()) + 1
        said, true = (np.bincount(ids, minlength=classes).astype(float) for ids in (predictions, references))
        spread = (n**2 - (said**2).sum()) * (n**2 - (true**2).sum())
        right = n * (predictions == references).sum() - (said * true).sum()
        return {"mcc": float(right / spread**0.5) if spread > 0 else 0.0}


def classification_metrics(predictions: np.ndarray, references: np.ndarray, extended: bool = False) -> dict[str, float]:
    """{"accuracy", "f1_macro", "n"} of class ids, each int (texts,); extended: and "f1_micro", "mcc"."""
    wanted = (Accuracy, MacroF1, MicroF1, MatthewsCorrelation) if extended else (Accuracy, MacroF1)
    metrics = evaluate.combine([metric(keep_in_memory=True) for metric in wanted])
    return {**metrics.compute(predictions=predictions, references=references), "n": len(references)}


def expected_calibration_error(probabilities: np.ndarray, references: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): how far confidence is from accuracy, over bins of equal width.

    probabilities (texts, classes), references int (texts,).
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == references
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidence.astype(float) - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(references))


def auroc(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """{"auroc"}: area under the ROC curve of each column, averaged; both (texts, columns), truth of zeros and ones.

    A column in which all or none are true says nothing and is left out; {} where that is every one.
    """
    areas = []
    for score, true in zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(references.T).astype(bool)):
        yes, no = score[true], np.sort(score[~true])
        if len(yes) and len(no):
            below = np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")  # ties count half
            areas.append(below.sum() / (2 * len(yes) * len(no)))
    return {"auroc": float(np.mean(areas))} if areas else {}


def multilabel_f1(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """{"f1_macro", "f1_micro"} of decisions on several labels, each bool (texts, labels).

    Macro: the mean over the labels that are true or said of some text; 0 where there is none.
    """
    predictions, references = predictions.astype(bool), references.astype(bool)
    both, either = 2 * (predictions & references).sum(0), predictions.sum(0) + references.sum(0)
    told = either > 0
    return {
        "f1_macro": float((both[told] / either[told]).mean()) if told.any() else 0.0,
        "f1_micro": float(both.sum() / max(1, either.sum())),
    }


def regression_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """{"spearman", "pearson", "rmse", "n"} of numbers, each (texts,); of numbers that are all the same, no correlation: 0."""
    predictions, references = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    varied = np.ptp(predictions) > 0 and np.ptp(references) > 0
    return {
        "spearman": float(spearmanr(predictions, references).statistic) if varied else 0.0,
        "pearson": float(np.corrcoef(predictions, references)[0, 1]) if varied else 0.0,
        "rmse": float(np.sqrt(np.mean((predictions - references) ** 2))),
        "n": len(references),
    }


def entity_metrics(predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
    """{"f1", "precision", "recall", "accuracy", "entities", "n"} of IOB2 tags, a list for each sentence.

    An entity counts when its type and both its ends are right; accuracy is of the words. Strict: an I-X that follows
    neither B-X nor I-X belongs to no entity. (seqeval's other mode, as CoNLL-2000's script, would begin one there.)
    """
    precision, recall, f1, count = precision_recall_fscore_support(
        references, predictions, average="micro", scheme=IOB2, zero_division=0
    )
    right = [
        one == other
        for said, true in zip(predictions, references, strict=True)
        for one, other in zip(said, true, strict=True)
    ]
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": float(np.mean(right)),
        "entities": int(count),
        "n": len(references),
    }
