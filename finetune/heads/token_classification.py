"""Token classification: a tag for each word, entities in IOB2, with transformers' token classifier.

A word's first token predicts its tag. Words without a token, or beyond max_length, are predicted as O.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification, PreTrainedModel

from data.tasks.task import Example
from engine.config.schema import Section
from engine.training.step import Output
from finetune.evaluation import metrics
from finetune.model.build import load_model

PROBLEM_TYPE = "token_classification"
REPORT_METRICS = ("f1", "precision", "recall")
METRIC_FOR_BEST = "f1"
DEFAULT_HEAD_LR = 1e-3
IGNORE_INDEX = -100


class Config(Section):
    """Token classification."""

    name: Literal["token_classification"] = "token_classification"
    """token_classification: a tag for each word."""
    label_all_tokens: bool = False
    """Whether all tokens of a word are labeled, I-X after the first of a B-X, so that aggregation_strategy="simple"
    returns whole words too; metrics always use the first token."""


def build(
    config: Config, folder: Path, label_names: list[str], dropout: float, random_init: bool = False
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """Return (token classifier on the encoder in `folder`, no constant parameters). Raise DataError if it fails."""
    return load_model(AutoModelForTokenClassification, folder, dropout, random_init, label_names), []


def encode_labels(examples: list[Example], label_names: list[str]) -> list[np.ndarray]:
    """Return tag ids, int64 (words,) for each text."""
    ids = {name: index for index, name in enumerate(label_names)}
    return [np.array([ids[tag] for tag in example.label], dtype=np.int64) for example in examples]


class Head(nn.Module):
    """Sum of the labeled tokens' cross-entropy; the count is their number."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.label_all_tokens = model, config.label_all_tokens

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Return the loss for tokenizer outputs (texts, length) and labels int64 (texts, 3, words).

        The rows of labels are each word's tag, first token and last token, -1 for a word without one; -100 is padding.
        """
        tags, first, last = (row[..., None] for row in labels.unbind(1))
        offset = torch.arange(int((last - first).max()) + 1 if self.label_all_tokens else 1, device=labels.device)
        indices = first + offset  # (texts, words, tokens of the longest word)
        # The ids of B-X are odd, and the next id is I-X.
        tags = torch.where((offset > 0) & (tags % 2 == 1), tags + 1, tags).flatten(1)
        tags = tags.masked_fill(((first < 0) | (indices > last)).flatten(1), IGNORE_INDEX)
        logits = self.model(**inputs).logits.float()
        indices = indices.flatten(1).clamp(0, logits.shape[1] - 1)
        logits = logits.gather(1, indices[..., None].expand(-1, -1, logits.shape[-1]))
        loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), reduction="sum", ignore_index=IGNORE_INDEX)
        return Output(loss, (tags != IGNORE_INDEX).sum())

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the tokens' probabilities, (texts, length, tags)."""
        return self.model(**inputs).logits.float().softmax(-1)


def decode_word_tags(probabilities: np.ndarray, first_tokens: np.ndarray) -> np.ndarray:
    """Return the predicted tag of each word, int64 (words,), from (length, tags); 0, which is O, without a token."""
    return np.where(first_tokens >= 0, probabilities.argmax(-1)[first_tokens.clip(min=0)], 0)


def quick_metrics(probabilities: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    """Compute the entity metrics of probabilities, (length, tags) for each text, and labels (3, words)."""

    def to_names(ids: np.ndarray) -> list[str]:
        # Ids as in `data.tasks.iob`: 0 is O, then B and I of each type.
        return ["O" if number == 0 else f"{'IB'[number % 2]}-{(number - 1) // 2}" for number in ids.tolist()]

    pairs = zip(probabilities, labels, strict=True)
    predictions = [to_names(decode_word_tags(outputs, first)) for outputs, (_, first, _) in pairs]
    return metrics.entity_metrics(predictions, [to_names(tags) for tags, *_ in labels])
