"""Single-label classification, with transformers' sequence or image classifier."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from data.tasks.problem_types import ProblemType
from data.tasks.problem_types.single_label_classification import PROBLEM_TYPE
from engine.training.step import Output
from finetune.heads import standard
from finetune.model.network import Network, scale_output

# A head that fits the labels too fast leaves nothing to learn for layers that are frozen early (docs/lab-notebook).
DEFAULT_HEAD_LR = 3e-4


class Config(standard.HeadConfig):
    """Single-label classification."""

    name: Literal["classification"] = "classification"
    """classification: one class of several."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: fraction of the target spread over all classes (Szegedy et al. 2016)."""
    class_weights: bool = False
    """Whether to weight classes inversely to their frequency."""
    focal_gamma: NonNegativeFloat = 0.0
    """Focal loss: the loss of a text is multiplied by (1 - its probability) ** focal_gamma (Lin et al. 2017)."""


class Head(standard.Head):
    """Sum of the inputs' cross-entropy, weighted by class; the count is the sum of the weights."""

    def __init__(self, config: Config, network: Network, problem_type: ProblemType = PROBLEM_TYPE):
        super().__init__(config, network, problem_type)
        self.register_buffer("class_weights", torch.ones(self.model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Weight each class by its inverse frequency in the training labels, with a mean weight of 1."""
        if self.config.class_weights:
            counts = np.bincount(labels, minlength=len(self.class_weights))
            weights = len(labels) / (np.count_nonzero(counts) * counts.clip(1))
            self.class_weights = torch.tensor(weights, dtype=torch.float32)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Output:
        """Return the loss of logits (inputs, classes) and class ids (inputs,)."""
        options = {"reduction": "none", "label_smoothing": self.config.label_smoothing}
        losses = self.problem_type.loss(logits, labels, **options)
        if self.config.focal_gamma:
            probability = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
            losses = losses * (1 - probability).clamp(min=1e-6) ** self.config.focal_gamma
        weights = self.class_weights[labels]
        return Output((losses * weights).sum(), weights.sum())

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels int64 (inputs,) and the network's inputs (inputs, ...)."""
        return self.cross_entropy(self.logits(inputs), labels)

    def fold_into_weights(self, params: dict) -> None:
        """Divide the last layer by the temperature, so that a plain softmax is calibrated."""
        if params:
            scale_output(self.model, 1 / params["calibration"]["temperature"])
