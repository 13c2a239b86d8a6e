"""Regression: a number for an input."""

from typing import Literal

import numpy as np
from torch import Tensor

from data.tasks.problem_types import ProblemType
from data.tasks.problem_types.regression import PROBLEM_TYPE
from engine.errors import DataError
from engine.log import get_logger
from engine.training.step import Output
from finetune.heads import standard
from finetune.model.network import Network, get_last_linear, scale_output

DEFAULT_HEAD_LR = 3e-4
MAX_MEAN = 1e4  # standard deviations; float32 has seven digits, and three of them are for the differences
MAX_STD = 1e30

logger = get_logger(__name__)


class Config(standard.HeadConfig):
    """Regression."""

    name: Literal["regression"] = "regression"
    """regression: a number."""


class Head(standard.Head):
    """Sum of the squared errors of the standardized numbers; the count is the number of inputs.

    Raises DataError if the model's last layer has no bias.
    """

    def __init__(self, config: Config, network: Network, problem_type: ProblemType = PROBLEM_TYPE):
        super().__init__(config, network, problem_type)
        if get_last_linear(self.model).bias is None:
            raise DataError(f"the head of {self.model.config.model_type} has no bias, which regression needs")
        self.label_mean, self.label_std = 0.0, 1.0

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Set mean and standard deviation from the training numbers (inputs,)."""
        self.label_mean, self.label_std = float(labels.mean()), float(labels.std()) or 1.0

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels float64 (inputs,) and the network's inputs (inputs, ...)."""
        standardized = ((labels - self.label_mean) / self.label_std).float()
        loss = self.problem_type.loss(self.logits(inputs).squeeze(-1), standardized, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the numbers, float64 (inputs,)."""
        return self.model(**inputs).logits.double().squeeze(-1) * self.label_std + self.label_mean

    def fold_into_weights(self, params: dict) -> None:
        """Undo the standardization in the weights, so that the model returns the number itself.

        Where float32 is too coarse for the numbers, mean and standard deviation go into `config.label_scale` instead.
        """
        if abs(self.label_mean) < MAX_MEAN * self.label_std and 1 / MAX_STD < self.label_std < MAX_STD:
            scale_output(self.model, self.label_std, self.label_mean)
            self.label_mean, self.label_std = 0.0, 1.0
        else:
            self.model.config.label_scale = {"mean": self.label_mean, "std": self.label_std}
            logger.info(
                "note: float32 weights cannot hold these numbers, so the model returns (number - mean) / std, with both"
                " under label_scale in config.json"
            )
