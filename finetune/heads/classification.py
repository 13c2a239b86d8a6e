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

from data.labelled import Example
from engine.gradient import Output
from finetune import calibration, metrics, network
from finetune.network import Pooled

KIND = "class"
MONITOR = "accuracy"
# One that knows the labels by heart leaves the layers nothing to learn from, and the lowest settle soon (LOG.md).
HEAD_LR = 3e-4
SHOWN = ("accuracy", "f1_macro")
MOST_IN_A_TABLE = 100  # classes; the table of more is not read by anybody


class Config(Pooled):
    """Single-label classification."""

    name: Literal["classification"] = "classification"
    """classification: one class of several."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016)."""
    balance: bool = False
    """Whether all classes weigh the same, however many texts they have."""
    focal: NonNegativeFloat = 0.0
    """How much less a text weighs that is right already: (1 - its probability) to this power (Lin et al. 2017)."""


def build(config: Config, folder: Path, labels: list[str], dropout: float,
          random: bool = False) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier on the encoder in `folder`, its parameters that are constants).

    random: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return network.of_texts(config, folder, labels, dropout, random, "single_label_classification", "classification")


def targets(examples: list[Example], names: list[str]) -> np.ndarray:
    """int64 (texts,): class ids."""
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[example.label] for example in examples], dtype=np.int64)


class Head(nn.Module):
    """Cross-entropy of the classes, summed; counted are the texts, each by its class's weight."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.config = model, config
        self.register_buffer("weights", torch.ones(model.config.num_labels), persistent=False)

    def observe(self, labels: np.ndarray) -> None:
        """Weigh each class by the training rows it has, so that the mean weight of a row is 1."""
        if self.config.balance:
            counts = np.bincount(labels, minlength=len(self.weights)).clip(1)
            self.weights = torch.tensor(len(labels) / (np.count_nonzero(np.bincount(labels)) * counts), dtype=torch.float32)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Output:
        """Of logits (texts, classes) and class ids (texts,)."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.config.label_smoothing)
        if self.config.focal:
            right = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
            losses = losses * (1 - right).clamp(min=1e-6) ** self.config.focal
        weights = self.weights[labels]
        return Output((losses * weights).sum(), weights.sum())

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """labels int64 (texts,); inputs as the tokenizer makes them, (texts, length)."""
        return self.cross_entropy(self.model(**inputs).logits.float(), labels)

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities, (texts, classes)."""
        return self.model(**inputs).logits.float().softmax(-1)


def score(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of probabilities, (classes,) of each text, against class ids (texts,)."""
    return metrics.classification(np.argmax(probabilities, -1), labels)


def tune(probabilities: list[np.ndarray], labels: np.ndarray, names: list[str]) -> dict:
    """{"calibration": {"temperature", ...}} for the model's config. (transformers takes a key `temperature` for one of
    generation and refuses to write it.)"""
    return {"calibration": {"temperature": calibration.temperature(probabilities, labels), "rows": len(labels),
                            "note": "already in the last linear layer: a plain softmax is calibrated"}}


def revise(probabilities: list[np.ndarray], tuned: dict) -> np.ndarray:
    """The probabilities (texts, classes) that the finished model gives."""
    return calibration.divided(probabilities, tuned["calibration"]["temperature"] if tuned else 1.0)


def finish(head: Head, tuned: dict) -> None:
    """Divide by the temperature in the weights: a plain softmax of what the network gives is then calibrated."""
    if tuned:
        network.fold(head.model, 1 / tuned["calibration"]["temperature"])


def figures(probabilities: np.ndarray, labels: np.ndarray, names: list[str], tuned: dict) -> dict[str, float]:
    """All figures of the probabilities of the finished model, and what the calibration error would be without `tune`."""
    probabilities = np.asarray(probabilities)
    found = {**metrics.classification(probabilities.argmax(1), labels, every=True),
             **metrics.auroc(probabilities, labels[:, None] == np.arange(len(names))),
             "ece": metrics.calibration_error(probabilities, labels)}
    if tuned:
        before = calibration.divided(probabilities, 1 / tuned["calibration"]["temperature"])
        found["ece_uncalibrated"] = metrics.calibration_error(before, labels)
    return found


def details(probabilities: np.ndarray, labels: np.ndarray, names: list[str]) -> dict:
    """{"confusion": {"labels", "counts"}}: how often each class (row) was taken for each; nothing of too many classes."""
    if len(names) > MOST_IN_A_TABLE:
        return {}
    counts = confusion_matrix(labels, np.argmax(probabilities, 1), labels=range(len(names)))
    return {"confusion": {"labels": names, "counts": counts.tolist()}}
