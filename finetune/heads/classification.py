"""One class of several for a text or a pair of texts: transformers' own sequence classifier of the architecture."""

from __future__ import annotations

from pathlib import Path
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
# One that knows the labels by heart leaves the layers nothing to learn from, and they settle soon (docs/lab-notebook).
DEFAULT_HEAD_LR = 3e-4
REPORT_METRICS = ("accuracy", "f1_macro")
MAX_CONFUSION_CLASSES = 100  # classes; the table of more is not read by anybody


class Config(SequenceHeadConfig):
    """Single-label classification."""

    name: Literal["classification"] = "classification"
    """classification: one class of several."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016)."""
    class_weights: bool = False
    """Whether all classes weigh the same, however many texts they have."""
    focal_gamma: NonNegativeFloat = 0.0
    """How much less a text weighs that is right already: (1 - its probability) to this power (Lin et al. 2017)."""


def build(
    config: Config, folder: Path, label_names: list[str], dropout: float, random_init: bool = False
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier on the encoder in `folder`, its parameters that are constants).

    random_init: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return build_sequence_classifier(
        config, folder, label_names, dropout, random_init, "single_label_classification", "classification"
    )


def encode_labels(examples: list[Example], label_names: list[str]) -> np.ndarray:
    """int64 (texts,): class ids."""
    number = {name: index for index, name in enumerate(label_names)}
    return np.array([number[example.label] for example in examples], dtype=np.int64)


class Head(nn.Module):
    """Cross-entropy of the classes, summed; counted are the texts, each by its class's weight."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.config = model, config
        self.register_buffer("class_weights", torch.ones(model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Weigh each class by the training rows it has, so that the mean weight of a row is 1."""
        if self.config.class_weights:
            counts = np.bincount(labels, minlength=len(self.class_weights)).clip(1)
            self.class_weights = torch.tensor(
                len(labels) / (np.count_nonzero(np.bincount(labels)) * counts), dtype=torch.float32
            )

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Output:
        """Of logits (texts, classes) and class ids (texts,)."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.config.label_smoothing)
        if self.config.focal_gamma:
            right = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
            losses = losses * (1 - right).clamp(min=1e-6) ** self.config.focal_gamma
        weights = self.class_weights[labels]
        return Output((losses * weights).sum(), weights.sum())

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Labels int64 (texts,); inputs as the tokenizer makes them, (texts, length)."""
        return self.cross_entropy(self.model(**inputs).logits.float(), labels)

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities, (texts, classes)."""
        return self.model(**inputs).logits.float().softmax(-1)


def quick_metrics(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of probabilities, (classes,) of each text, against class ids (texts,)."""
    return metrics.classification_metrics(np.argmax(probabilities, -1), labels)


def fit_postprocess(probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
    """{"calibration": {"temperature", ...}} for the model's config. (transformers takes a key `temperature` for one of
    generation and refuses to write it.).
    """
    return {
        "calibration": {
            "temperature": calibration.fit_temperature(probabilities, labels),
            "rows": len(labels),
            "note": "already in the last linear layer: a plain softmax is calibrated",
        }
    }


def apply_postprocess(probabilities: list[np.ndarray], fitted_params: dict) -> np.ndarray:
    """The probabilities (texts, classes) that the finished model gives."""
    return calibration.apply_temperature(
        probabilities, fitted_params["calibration"]["temperature"] if fitted_params else 1.0
    )


def fold_into_weights(head: Head, fitted_params: dict) -> None:
    """Divide by the temperature in the weights: a plain softmax of what the network gives is then calibrated."""
    if fitted_params:
        scale_output(head.model, 1 / fitted_params["calibration"]["temperature"])


def compute_metrics(
    probabilities: np.ndarray, labels: np.ndarray, label_names: list[str], fitted_params: dict
) -> dict[str, float]:
    """All figures of the probabilities of the finished model, and what the calibration error would be without `fit_postprocess`."""
    probabilities = np.asarray(probabilities)
    found = {
        **metrics.classification_metrics(probabilities.argmax(1), labels, extended=True),
        **metrics.auroc(probabilities, labels[:, None] == np.arange(len(label_names))),
        "ece": metrics.expected_calibration_error(probabilities, labels),
    }
    if fitted_params:
        before = calibration.apply_temperature(probabilities, 1 / fitted_params["calibration"]["temperature"])
        found["ece_uncalibrated"] = metrics.expected_calibration_error(before, labels)
    return found


def details(probabilities: np.ndarray, labels: np.ndarray, label_names: list[str]) -> dict:
    """{"confusion_matrix": {"labels", "counts"}}: how often each class (row) was taken for each; nothing of too many classes."""
    if len(label_names) > MAX_CONFUSION_CLASSES:
        return {}
    counts = confusion_matrix(labels, np.argmax(probabilities, 1), labels=range(len(label_names)))
    return {"confusion_matrix": {"labels": label_names, "counts": counts.tolist()}}
