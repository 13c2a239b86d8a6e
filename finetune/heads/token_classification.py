"""Token classification: a tag for each word, predicted by its first token, with transformers' token classifier."""

from typing import Literal

import torch
from torch import Tensor

from data.tasks.problem_types import ProblemType
from data.tasks.problem_types.token_classification import PROBLEM_TYPE
from engine.config.schema import Section
from engine.training.step import Output
from finetune.heads import standard
from finetune.model.network import Network

DEFAULT_HEAD_LR = 1e-3
IGNORE_INDEX = -100


class Config(Section):
    """Token classification."""

    name: Literal["token_classification"] = "token_classification"
    """token_classification: a tag for each word."""
    label_all_tokens: bool = False
    """Whether all tokens of a word are labeled, I-X after the first of a B-X, so that aggregation_strategy="simple"
    returns whole words too; metrics always use the first token."""


class Head(standard.Head):
    """Sum of the labeled tokens' cross-entropy; the count is their number. Predictions are of each token."""

    def __init__(self, config: Config, network: Network, problem_type: ProblemType = PROBLEM_TYPE):
        super().__init__(config, network, problem_type)

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for tokenizer outputs (texts, length) and labels int64 (texts, 3, words).

        The rows of labels are each word's tag, first token and last token, -1 for a word without one; -100 is padding.
        """
        tags, first, last = (row[..., None] for row in labels.unbind(1))
        num_tokens = int((last - first).max()) + 1 if self.config.label_all_tokens else 1
        offset = torch.arange(num_tokens, device=labels.device)
        indices = first + offset  # (texts, words, tokens of the longest word)
        # The ids of B-X are odd, and the next id is I-X.
        tags = torch.where((offset > 0) & (tags % 2 == 1), tags + 1, tags).flatten(1)
        tags = tags.masked_fill(((first < 0) | (indices > last)).flatten(1), IGNORE_INDEX)
        logits = self.logits(inputs)
        indices = indices.flatten(1).clamp(0, logits.shape[1] - 1)
        logits = logits.gather(1, indices[..., None].expand(-1, -1, logits.shape[-1]))
        options = {"reduction": "sum", "ignore_index": IGNORE_INDEX}
        loss = self.problem_type.loss(logits.flatten(0, 1), tags.flatten(), **options)
        return Output(loss, (tags != IGNORE_INDEX).sum())
