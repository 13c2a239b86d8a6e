"""A number for a text or a pair of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from data.labelled import Example
from engine.errors import DataError
from engine.gradient import Output
from finetune import metrics, network
from finetune.network import Pooled

KIND = "number"
MONITOR = "spearman"
HEAD_LR = 3e-4
SHOWN = ("spearman", "pearson", "rmse")


class Config(Pooled):
    """Regression."""

    name: Literal["regression"] = "regression"
    """regression: a number."""


def build(config: Config, folder: Path, labels: list[str], dropout: float,
          random: bool = False) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier of one output on the encoder in `folder`, its parameters that are constants).

    random: the same network with random weights. Raises DataError when transformers cannot load it, or its last layer
    cannot add a number.
    """
    model, constant = network.of_texts(config, folder, labels, dropout, random, "regression", "regression")
    if network.last_linear(model).bias is None:
        raise DataError(f"{folder}: the head of {model.config.model_type} has no bias, which regression needs")
    return model, constant


def targets(examples: list[Example], names: list[str]) -> np.ndarray:
    """float64 (texts,): the numbers."""
    return np.array([example.label for example in examples], dtype=np.float64)


class Head(nn.Module):
    """Squared error of the numbers, standardised by the training rows, summed; counted are the texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.mean, self.spread = model, 0.0, 1.0

    def observe(self, labels: np.ndarray) -> None:
        """Told the training numbers (texts,) before training."""
        self.mean, self.spread = float(labels.mean()), float(labels.std()) or 1.0

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """labels float64 (texts,); inputs as the tokenizer makes them, (texts, length)."""
        logits = self.model(**inputs).logits.float().squeeze(-1)
        loss = F.mse_loss(logits, ((labels - self.mean) / self.spread).float(), reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """The numbers, float64 (texts,)."""
        return self.model(**inputs).logits.double().squeeze(-1) * self.spread + self.mean


def score(said: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of numbers said of the texts against the true ones (texts,)."""
    return metrics.correlations(said, labels)


def finish(head: Head, tuned: dict) -> None:
    """Undo the standardisation in the weights: the network then gives the number itself."""
    network.fold(head.model, head.spread, head.mean)
    head.mean, head.spread = 0.0, 1.0
