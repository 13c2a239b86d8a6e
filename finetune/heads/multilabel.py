"""Several labels or none for a text or a pair of texts: each label is a yes or no of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.labelled import Example
from engine.gradient import Output
from finetune import metrics, network
from finetune.network import Pooled

KIND = "labels"
MONITOR = "f1_macro"
HEAD_LR = 1e-3  # two dozen questions want a faster head than one does (LOG.md)
SHOWN = ("f1_macro", "f1_micro", "exact_match")
THRESHOLD = 0.5  # of a label that no validation row has


class Config(Pooled):
    """Multi-label classification."""

    name: Literal["multilabel"] = "multilabel"
    """multilabel: any number of labels for a text."""
    balance: bool = True
    """Whether a label's yes weighs as much as its no, however few texts have it; probabilities are then too high."""


def build(config: Config, folder: Path, labels: list[str], dropout: float,
          random: bool = False) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier on the encoder in `folder`, its parameters that are constants).

    random: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return network.of_texts(config, folder, labels, dropout, random, "multi_label_classification", "several labels")


def targets(examples: list[Example], names: list[str]) -> np.ndarray:
    """uint8 (texts, labels): 1 where a text has a label."""
    number = {name: index for index, name in enumerate(names)}
    found = np.zeros((len(examples), len(names)), dtype=np.uint8)
    for row, example in zip(found, examples):
        row[[number[name] for name in example.label]] = 1
    return found


class Head(nn.Module):
    """Binary cross-entropy of each label, summed; counted are the texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.balance = model, config.balance
        self.register_buffer("yes_weight", torch.ones(model.config.num_labels), persistent=False)

    def observe(self, labels: np.ndarray) -> None:
        """Told the training labels (texts, labels) before training: how rare a yes is; a label never seen weighs 1."""
        if self.balance:
            yes = labels.sum(0, dtype=np.int64)
            self.yes_weight.copy_(torch.from_numpy(np.where(yes > 0, (len(labels) - yes).clip(1) / yes.clip(1), 1.0)))

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """labels (texts, labels) of zeros and ones; inputs as the tokenizer makes them, (texts, length)."""
        logits = self.model(**inputs).logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=self.yes_weight, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities of a yes, (texts, labels)."""
        return self.model(**inputs).logits.float().sigmoid()


def threshold(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """From which probability on a yes is said: that of the best F1 on these texts, each (texts,), half way to the next."""
    if not truth.any():
        return THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    sorted_, hits = probabilities[order], np.cumsum(truth[order], dtype=np.int64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    last = np.append(sorted_[:-1] > sorted_[1:], True)  # texts of one probability are all in or all out
    best = int(np.argmax(np.where(last, f1, -1)))
    return float((float(sorted_[best]) + float(sorted_[best + 1] if best + 1 < len(hits) else 0.0)) / 2)


def tune(probabilities: list[np.ndarray], labels: np.ndarray, names: list[str]) -> dict:
    """{"thresholds": {label: probability}} with the best F1 of each label on these rows."""
    columns = zip(names, np.array(probabilities).T, labels.T)
    return {"thresholds": {name: threshold(column, truth) for name, column, truth in columns}}


def decided(probabilities: list[np.ndarray], names: list[str], tuned: dict) -> np.ndarray:
    """bool (texts, labels): which labels are said, from their thresholds on; from a half on where none were tuned."""
    return np.array(probabilities) >= np.array([tuned["thresholds"][name] for name in names] if tuned else THRESHOLD)


def score(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of probabilities, (labels,) of each text, against zeros and ones (texts, labels), at the best thresholds.

    At a half, rare labels are long said of no text, and all evaluations are alike.
    """
    names = [str(place) for place in range(labels.shape[1])]
    said = decided(probabilities, names, tune(probabilities, labels, names))
    return {**metrics.label_f1(said, labels), "n": len(labels)}


def figures(probabilities: list[np.ndarray], labels: np.ndarray, names: list[str], tuned: dict) -> dict[str, float]:
    """All figures, labels being said from their thresholds on; exact match is the share of texts with no mistake."""
    said = decided(probabilities, names, tuned)
    return {**metrics.label_f1(said, labels), **metrics.auroc(np.array(probabilities), labels),
            "exact_match": float((said == labels.astype(bool)).all(1).mean()), "n": len(labels)}
