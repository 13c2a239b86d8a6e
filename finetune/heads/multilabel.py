"""Several labels or none for a text or a pair of texts: each label is a yes or no of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.tasks.task import Example
from engine.training.step import Output
from finetune.evaluation import metrics
from finetune.model.build import SequenceHeadConfig, build_sequence_classifier

PROBLEM_TYPE = "multi_label_classification"
METRIC_FOR_BEST = "f1_macro"
DEFAULT_HEAD_LR = 1e-3  # two dozen questions want a faster head than one does (docs/lab-notebook)
REPORT_METRICS = ("f1_macro", "f1_micro", "exact_match")
DEFAULT_THRESHOLD = 0.5  # of a label that no validation row has


class Config(SequenceHeadConfig):
    """Multi-label classification."""

    name: Literal["multilabel"] = "multilabel"
    """multilabel: any number of labels for a text."""
    class_weights: bool = True
    """Whether a label's yes weighs as much as its no, however few texts have it; probabilities are then too high."""


def build(
    config: Config, folder: Path, label_names: list[str], dropout: float, random_init: bool = False
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier on the encoder in `folder`, its parameters that are constants).

    random_init: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return build_sequence_classifier(
        config, folder, label_names, dropout, random_init, "multi_label_classification", "several labels"
    )


def encode_labels(examples: list[Example], label_names: list[str]) -> np.ndarray:
    """uint8 (texts, labels): 1 where a text has a label."""
    number = {name: index for index, name in enumerate(label_names)}
    found = np.zeros((len(examples), len(label_names)), dtype=np.uint8)
    for row, example in zip(found, examples):
        row[[number[name] for name in example.label]] = 1
    return found


class Head(nn.Module):
    """Binary cross-entropy of each label, summed; counted are the texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.balance_labels = model, config.class_weights
        self.register_buffer("pos_weight", torch.ones(model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Told the training labels (texts, labels) before training: how rare a yes is; a label never seen weighs 1."""
        if self.balance_labels:
            yes = labels.sum(0, dtype=np.int64)
            self.pos_weight.copy_(torch.from_numpy(np.where(yes > 0, (len(labels) - yes).clip(1) / yes.clip(1), 1.0)))

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Labels (texts, labels) of zeros and ones; inputs as the tokenizer makes them, (texts, length)."""
        logits = self.model(**inputs).logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=self.pos_weight, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities of a yes, (texts, labels)."""
        return self.model(**inputs).logits.float().sigmoid()


def best_f1_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """From which probability on a yes is said: that of the best F1 on these texts, each (texts,), half way to the next."""
    if not labels.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    sorted_, hits = probabilities[order], np.cumsum(labels[order], dtype=np.int64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    last = np.append(sorted_[:-1] > sorted_[1:], True)  # texts of one probability are all in or all out
    best = int(np.argmax(np.where(last, f1, -1)))
    return float((float(sorted_[best]) + float(sorted_[best + 1] if best + 1 < len(hits) else 0.0)) / 2)


def fit_postprocess(probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
    """{"thresholds": {label: probability}} with the best F1 of each label on these rows."""
    columns = zip(label_names, np.array(probabilities).T, labels.T)
    return {"thresholds": {name: best_f1_threshold(column, truth) for name, column, truth in columns}}


def apply_thresholds(probabilities: list[np.ndarray], label_names: list[str], fitted_params: dict) -> np.ndarray:
    """Bool (texts, labels): which labels are said, from their thresholds on; from a half on where none were tuned."""
    return np.array(probabilities) >= np.array(
        [fitted_params["thresholds"][name] for name in label_names] if fitted_params else DEFAULT_THRESHOLD
    )


def quick_metrics(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of probabilities, (labels,) of each text, against zeros and ones (texts, labels), at the best thresholds.

    At a half, rare labels are long said of no text, and all evaluations are alike.
    """
    names = [str(place) for place in range(labels.shape[1])]
    said = apply_thresholds(probabilities, names, fit_postprocess(probabilities, labels, names))
    return {**metrics.multilabel_f1(said, labels), "n": len(labels)}


def compute_metrics(
    probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str], fitted_params: dict
) -> dict[str, float]:
    """All figures, labels being said from their thresholds on; exact match is the share of texts with no mistake."""
    said = apply_thresholds(probabilities, label_names, fitted_params)
    return {
        **metrics.multilabel_f1(said, labels),
        **metrics.auroc(np.array(probabilities), labels),
        "exact_match": float((said == labels.astype(bool)).all(1).mean()),
        "n": len(labels),
    }
