"""Regression: a number for a text or a pair of texts."""

from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.tasks.task import Example
from engine.errors import DataError
from engine.training.step import Output
from finetune.evaluation import metrics
from finetune.model.build import SequenceHeadConfig, build_sequence_classifier, get_last_linear, scale_output

PROBLEM_TYPE = "regression"
METRIC_FOR_BEST = "spearman"
DEFAULT_HEAD_LR = 3e-4
REPORT_METRICS = ("spearman", "pearson", "rmse")


class Config(SequenceHeadConfig):
    """Regression."""

    name: Literal["regression"] = "regression"
    """regression: a number."""


def build(config: Config, folder: Path, *args, **kwargs) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """Call `build_sequence_classifier`. Raise DataError if the model's last layer has no bias."""
    model, constant = build_sequence_classifier(PROBLEM_TYPE, config, folder, *args, **kwargs)
    if get_last_linear(model).bias is None:
        raise DataError(f"{folder}: the head of {model.config.model_type} has no bias, which regression needs")
    return model, constant


def encode_labels(examples: list[Example], label_names: list[str]) -> np.ndarray:
    """Return the numbers, float64 (texts,)."""
    return np.array([example.label for example in examples], dtype=np.float64)


class Head(nn.Module):
    """Sum of the squared errors of the standardized numbers; the count is the number of texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.label_mean, self.label_std = model, 0.0, 1.0

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Set mean and standard deviation from the training numbers (texts,)."""
        self.label_mean, self.label_std = float(labels.mean()), float(labels.std()) or 1.0

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels float64 (texts,) and tokenizer outputs (texts, length)."""
        logits = self.model(**inputs).logits.float().squeeze(-1)
        loss = F.mse_loss(logits, ((labels - self.label_mean) / self.label_std).float(), reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the numbers, float64 (texts,)."""
        return self.model(**inputs).logits.double().squeeze(-1) * self.label_std + self.label_mean


def quick_metrics(predictions: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Compute the metrics of predicted and true numbers, each (texts,)."""
    return metrics.regression_metrics(predictions, labels)


def fold_into_weights(head: Head, params: dict) -> None:
    """Undo the standardization in the weights, so that the model returns the number itself."""
    scale_output(head.model, head.label_std, head.label_mean)
    head.label_mean, head.label_std = 0.0, 1.0
