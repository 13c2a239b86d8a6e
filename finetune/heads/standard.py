"""The standard head: the loss of the task's problem type on the network's outputs."""

from typing import Literal

import numpy as np
from torch import Tensor, nn

from data.tasks.problem_types import ProblemType
from engine.config.schema import Section
from engine.training.step import Output
from finetune.model.network import Network

PROBLEM_TYPE = None
DEFAULT_HEAD_LR = 1e-3


class HeadConfig(Section):
    """Settings of all heads with one output for each input."""

    pooling: Literal["mean", "cls"] | None = None
    """Pooling of the tokens for the head: mean or cls (the first token); none: the encoder's, else cls."""


class Config(HeadConfig):
    """The loss of the problem type."""

    name: Literal["standard"] = "standard"
    """standard: the loss of the problem type."""


class Head(nn.Module):
    """Sum of the inputs' losses; the count is the number of inputs."""

    def __init__(self, config: Section, network: Network, problem_type: ProblemType):
        super().__init__()
        self.config, self.network, self.model, self.problem_type = config, network, network.model, problem_type

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Prepare the loss for the training labels, as `encode_labels` returns them, before training."""

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the network's outputs, float32 (inputs, outputs)."""
        return self.model(**inputs).logits.float()

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels (inputs, ...) and the network's inputs (inputs, ...)."""
        loss = self.problem_type.loss(self.logits(inputs), labels, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the prediction for each input, by the activation of the problem type."""
        return self.problem_type.activate(self.logits(inputs))

    def fold_into_weights(self, params: dict) -> None:
        """Put into the weights what plain transformers ignores of the fitted parameters of the postprocessing."""
