"""Multi-label classification of a text or a pair of texts: a binary decision for each label."""

from functools import partial
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
DEFAULT_HEAD_LR = 1e-3  # two dozen labels need a faster head than one decision (docs/lab-notebook)
REPORT_METRICS = ("f1_macro", "f1_micro", "exact_match")
DEFAULT_THRESHOLD = 0.5  # for labels without a validation example


class Config(SequenceHeadConfig):
    """Multi-label classification."""

    name: Literal["multilabel"] = "multilabel"
    """multilabel: any number of labels for a text."""
    class_weights: bool = True
    """Whether to balance the positive and negative examples of each label; raises its probabilities."""


build = partial(build_sequence_classifier, PROBLEM_TYPE)


def encode_labels(examples: list[Example], label_names: list[str]) -> np.ndarray:
    """Return uint8 (texts, labels): 1 where a text has a label."""
    ids = {name: index for index, name in enumerate(label_names)}
    encoded = np.zeros((len(examples), len(label_names)), dtype=np.uint8)
    for row, example in enumerate(examples):
        encoded[row, [ids[name] for name in example.label]] = 1
    return encoded


class Head(nn.Module):
    """Sum of the labels' binary cross-entropy; the count is the number of texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.balance_labels = model, config.class_weights
        self.register_buffer("pos_weight", torch.ones(model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Set the positive weights from the training labels (texts, labels); 1 for a label without examples."""
        if self.balance_labels:
            positive = labels.sum(0, dtype=np.int64)
            ratio = (len(labels) - positive).clip(1) / positive.clip(1)
            self.pos_weight.copy_(torch.from_numpy(np.where(positive > 0, ratio, 1.0)))

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels of zeros and ones (texts, labels) and tokenizer outputs (texts, length)."""
        logits = self.model(**inputs).logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=self.pos_weight, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the labels' probabilities, (texts, labels)."""
        return self.model(**inputs).logits.float().sigmoid()


def best_f1_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the best F1 on these texts, each (texts,), halfway to the next lower probability."""
    if not labels.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    descending, hits = probabilities[order], np.cumsum(labels[order], dtype=np.int64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    is_last = np.append(descending[:-1] > descending[1:], True)  # texts of equal probability get the same decision
    best = int(np.argmax(np.where(is_last, f1, -1)))
    following = descending[best + 1] if best + 1 < len(hits) else 0.0
    return float((float(descending[best]) + float(following)) / 2)


def fit_postprocess(probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
    """Return {"thresholds": {label: probability}} with the best F1 of each label on these rows."""
    columns = zip(label_names, np.array(probabilities).T, labels.T, strict=True)
    return {"thresholds": {name: best_f1_threshold(column, true) for name, column, true in columns}}


def apply_thresholds(probabilities: list[np.ndarray], label_names: list[str], params: dict) -> np.ndarray:
    """Return the predicted labels, bool (texts, labels), by the fitted thresholds or the default one."""
    thresholds = [params["thresholds"][name] for name in label_names] if params else DEFAULT_THRESHOLD
    return np.array(probabilities) >= np.array(thresholds)


def quick_metrics(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Compute F1 at the best thresholds, of probabilities (labels,) for each text and 0/1 labels (texts, labels)."""
    # At 0.5, rare labels stay unpredicted for long, and evaluations do not differ.
    names = [str(index) for index in range(labels.shape[1])]
    predictions = apply_thresholds(probabilities, names, fit_postprocess(probabilities, labels, names))
    return {**metrics.multilabel_f1(predictions, labels), "n": len(labels)}


def compute_metrics(probabilities: list[np.ndarray], labels: np.ndarray, label_names: list[str], params: dict) -> dict:
    """Compute all metrics at the fitted thresholds; exact match is the fraction of texts without a mistake."""
    predictions = apply_thresholds(probabilities, label_names, params)
    return {
        **metrics.multilabel_f1(predictions, labels),
        **metrics.auroc(np.array(probabilities), labels),
        "exact_match": float((predictions == labels.astype(bool)).all(1).mean()),
        "n": len(labels),
    }
