"""Metrics as local `evaluate` modules: those of the library are downloaded from a hub, and these work offline."""

from functools import partial

import datasets
import evaluate
import numpy as np
from scipy.stats import spearmanr
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score


def matthews_correlation(references: np.ndarray, predictions: np.ndarray) -> float:
    """Compute the Matthews correlation for any number of classes (Gorodkin 2004); 0 if either side has a single class.

    From the margins: a confusion matrix of 10,000 classes would not fit in memory.
    """
    predictions, references, n = np.array(predictions), np.array(references), len(references)
    classes = max(predictions.max(), references.max()) + 1
    predicted, true = (np.bincount(ids, minlength=classes).astype(float) for ids in (predictions, references))
    variance = (n**2 - (predicted**2).sum()) * (n**2 - (true**2).sum())
    covariance = n * (predictions == references).sum() - (predicted * true).sum()
    return covariance / variance**0.5 if variance > 0 else 0.0


SCORES = {
    "accuracy": accuracy_score,
    "f1_macro": partial(f1_score, average="macro", zero_division=0),
    "f1_micro": partial(f1_score, average="micro", zero_division=0),
    "mcc": matthews_correlation,
}
"""Functions of true and predicted class ids."""


class ClassificationMetric(evaluate.Metric):
    """The function of `SCORES` that `config_name` names, as a metric of class ids."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({key: datasets.Value("int64") for key in ("predictions", "references")})
        return evaluate.MetricInfo(self.config_name, citation="", inputs_description="class ids", features=features)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {self.config_name: float(SCORES[self.config_name](references, predictions))}


def classification_metrics(predictions: np.ndarray, references: np.ndarray, extended: bool = False) -> dict[str, float]:
    """Return {"accuracy", "f1_macro", "n"} of class ids, each int (texts,); extended: also "f1_micro" and "mcc".

    Macro: the mean over the classes that are true or predicted for some text, 0 for a class that is only predicted.
    """
    names = list(SCORES) if extended else ["accuracy", "f1_macro"]
    metrics = evaluate.combine([ClassificationMetric(name, keep_in_memory=True) for name in names])
    return {**metrics.compute(predictions=predictions, references=references), "n": len(references)}


def expected_calibration_error(probabilities: np.ndarray, references: np.ndarray, bins: int = 15) -> float:
    """Compute the expected calibration error (Guo et al. 2017) of probabilities (texts, classes) and class ids."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == references
    bin_ids = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_ids, confidence.astype(float) - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(references))


def auroc(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return {"auroc"}: the columns' mean area under the ROC curve, of scores and of zeros and ones (texts, columns).

    Columns of only zeros or only ones are left out; {} if none is left.
    """
    areas = []
    columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(references.T).astype(bool)
    for score, true in zip(*columns, strict=True):
        positive, negative = score[true], np.sort(score[~true])
        if len(positive) and len(negative):
            # Ties count half.
            below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
            areas.append(below.sum() / (2 * len(positive) * len(negative)))
    return {"auroc": float(np.mean(areas))} if areas else {}


def multilabel_f1(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return {"f1_macro", "f1_micro"} of several labels, each bool (texts, labels).

    Macro: the mean over the labels that are true or predicted for some text, 0 if there is none.
    """
    predictions, references = predictions.astype(bool), references.astype(bool)
    both, either = 2 * (predictions & references).sum(0), predictions.sum(0) + references.sum(0)
    used = either > 0
    return {
        "f1_macro": float((both[used] / either[used]).mean()) if used.any() else 0.0,
        "f1_micro": float(both.sum() / max(1, either.sum())),
    }


def regression_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return {"spearman", "pearson", "rmse", "n"} of numbers, each (texts,). Constant numbers have correlation 0."""
    predictions, references = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    varies = np.ptp(predictions) > 0 and np.ptp(references) > 0
    return {
        "spearman": float(spearmanr(predictions, references).statistic) if varies else 0.0,
        "pearson": float(np.corrcoef(predictions, references)[0, 1]) if varies else 0.0,
        "rmse": float(np.sqrt(np.mean((predictions - references) ** 2))),
        "n": len(references),
    }


def entity_metrics(predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
    """Return {"f1", "precision", "recall", "accuracy", "entities", "n"} of IOB2 tags, a list for each sentence.

    An entity is right if its type and both ends are; accuracy is that of words. Strict: an I-X after neither B-X nor
    I-X is no entity. (seqeval's other mode, like CoNLL-2000's script, starts one there.)
    """
    precision, recall, f1, count = precision_recall_fscore_support(
        references, predictions, average="micro", scheme=IOB2, zero_division=0
    )
    sentences = zip(predictions, references, strict=True)
    correct = [one == other for tags, true in sentences for one, other in zip(tags, true, strict=True)]
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": float(np.mean(correct)),
        "entities": int(count),
        "n": len(references),
    }
