"""Single-label classification of a text or a pair of texts, with transformers' sequence classifier."""

from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.tasks.task import Example
from engine.training.step import Output
from finetune.evaluation import calibration, metrics
from finetune.model.build import SequenceHeadConfig, build_sequence_classifier, scale_output

PROBLEM_TYPE = "single_label_classification"
METRIC_FOR_BEST = "accuracy"
# A head that fits the labels too fast leaves nothing to learn for layers that are frozen early (docs/lab-notebook).
DEFAULT_HEAD_LR = 3e-4
REPORT_METRICS = ("accuracy", "f1_macro")
MAX_CONFUSION_CLASSES = 100


class Config(SequenceHeadConfig):
    """Single-label classification."""

    name: Literal["classification"] = "classification"
    """classification: one class of several."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: fraction of the target spread over all classes (Szegedy et al. 2016)."""
    class_weights: bool = False
    """Whether to weight classes inversely to their frequency."""
    focal_gamma: NonNegativeFloat = 0.0
    """Focal loss: the loss of a text is multiplied by (1 - its probability) ** focal_gamma (Lin et al. 2017)."""


build = partial(build_sequence_classifier, PROBLEM_TYPE)


def encode_labels(examples: list[Example], label_names: list[str]) -> np.ndarray:
    """Return class ids, int64 (texts,)."""
    ids = {name: index for index, name in enumerate(label_names)}
    return np.array([ids[example.label] for example in examples], dtype=np.int64)


class Head(nn.Module):
    """Sum of the texts' cross-entropy, weighted by class; the count is the sum of the weights."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.config = model, config
        self.register_buffer("class_weights", torch.ones(model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Weight each class by its inverse frequency in the training labels, with a mean weight of 1."""
        if self.config.class_weights:
            counts = np.bincount(labels, minlength=len(self.class_weights))
            weights = len(labels) / (np.count_nonzero(counts) * counts.clip(1))
            self.class_weights = torch.tensor(weights, dtype=torch.float32)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Output:
        """Return the loss of logits (texts, classes) and class ids (texts,)."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.config.label_smoothing)
        if self.config.focal_gamma:
            probability = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
            losses = losses * (1 - probability).clamp(min=1e-6) ** self.config.focal_gamma
        weights = self.class_weights[labels]
        return Output((losses * weights).sum(), weights.sum())

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels int64 (texts,) and tokenizer outputs (texts, length)."""
        return self.cross_entropy(self.model(**inputs).logits.float(), labels)

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return probabilities, (texts, classes)."""
        return self.model(**inputs).logits.float().softmax(-1)


def quick_metrics(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Compute accuracy and macro F1 of probabilities, (classes,) for each text, and class ids (texts,)."""
    return metrics.classification_metrics(np.argmax(probabilities, -1), labels)


def fit_postprocess(probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
    """Fit the temperature; return {"calibration": {"temperature", ...}} for the model's config."""
    temperature = calibration.fit_temperature(probabilities, labels)
    note = "already in the last linear layer: a plain softmax is calibrated"
    # Not at the top level: there `temperature` is a generation setting, which transformers refuses to save.
    return {"calibration": {"temperature": temperature, "rows": len(labels), "note": note}}


def apply_postprocess(probabilities: list[np.ndarray], params: dict) -> np.ndarray:
    """Return the calibrated probabilities, (texts, classes)."""
    temperature = params["calibration"]["temperature"] if params else 1.0
    return calibration.apply_temperature(probabilities, temperature)


def fold_into_weights(head: Head, params: dict) -> None:
    """Divide the last layer by the temperature, so that a plain softmax is calibrated."""
    if params:
        scale_output(head.model, 1 / params["calibration"]["temperature"])


def compute_metrics(probabilities: np.ndarray, labels: np.ndarray, label_names: list[str], params: dict) -> dict:
    """Compute all metrics of the calibrated probabilities, and the calibration error without calibration."""
    probabilities = np.asarray(probabilities)
    results = {
        **metrics.classification_metrics(probabilities.argmax(1), labels, extended=True),
        **metrics.auroc(probabilities, labels[:, None] == np.arange(len(label_names))),
        "ece": metrics.expected_calibration_error(probabilities, labels),
    }
    if params:
        raw = calibration.apply_temperature(probabilities, 1 / params["calibration"]["temperature"])
        results["ece_uncalibrated"] = metrics.expected_calibration_error(raw, labels)
    return results


def details(probabilities: np.ndarray, labels: np.ndarray, label_names: list[str]) -> dict:
    """Return {"confusion_matrix": {"label_names", "counts"}} with true classes as rows; {} for too many classes."""
    if len(label_names) > MAX_CONFUSION_CLASSES:
        return {}
    counts = confusion_matrix(labels, np.argmax(probabilities, 1), labels=range(len(label_names)))
    return {"confusion_matrix": {"label_names": label_names, "counts": counts.tolist()}}
