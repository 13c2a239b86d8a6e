"""Multi-label classification: a binary decision for each label."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.tasks.problem_types import ProblemType
from data.tasks.problem_types.multi_label_classification import PROBLEM_TYPE
from engine.training.step import Output
from finetune.heads import standard
from finetune.model.network import Network

DEFAULT_HEAD_LR = 1e-3  # two dozen labels need a faster head than one decision (docs/lab-notebook)


class Config(standard.HeadConfig):
    """Multi-label classification."""

    name: Literal["multilabel"] = "multilabel"
    """multilabel: any number of labels for a text."""
    class_weights: bool = True
    """Whether to balance the positive and negative examples of each label; raises its probabilities."""


class Head(standard.Head):
    """Sum of the labels' binary cross-entropy; the count is the number of inputs."""

    def __init__(self, config: Config, network: Network, problem_type: ProblemType = PROBLEM_TYPE):
        super().__init__(config, network, problem_type)
        self.register_buffer("pos_weight", torch.ones(self.model.config.num_labels), persistent=False)

    def set_label_stats(self, labels: np.ndarray) -> None:
        """Set the positive weights from the training labels (inputs, labels); 1 for a label without examples."""
        if self.config.class_weights:
            positive = labels.sum(0, dtype=np.int64)
            ratio = (len(labels) - positive).clip(1) / positive.clip(1)
            self.pos_weight.copy_(torch.from_numpy(np.where(positive > 0, ratio, 1.0)))

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for labels of zeros and ones (inputs, labels) and the network's inputs (inputs, ...)."""
        loss = self.problem_type.loss(self.logits(inputs), labels, pos_weight=self.pos_weight, reduction="sum")
        return Output(loss, loss.new_tensor(len(labels)))
