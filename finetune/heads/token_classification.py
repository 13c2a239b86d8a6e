"""A tag for each word of a text, entities in IOB2: transformers' own token classifier of the architecture.

The first token of a word says the word's tag. A word without a token of its own, or cut off at max_length, is found to
be O, and counts as such in the figures.
"""

from __future__ import annotations

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
IGNORE_INDEX = -100  # what transformers' losses pass over


class Config(Section):
    """Tags of words, for entities."""

    name: Literal["tokens"] = "tokens"
    """tokens: a tag for each word."""
    label_all_tokens: bool = False
    """Which tokens of a word learn its tag; all: those after the first of a B-X learn I-X, so that words come out whole
    by aggregation_strategy="simple" too; the figures are by the first either way."""


def build(
    config: Config, folder: Path, label_names: list[str], dropout: float, random_init: bool = False
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain token classifier on the encoder in `folder`, no constants).

    random_init: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return load_model(AutoModelForTokenClassification, folder, dropout, random_init, "tags of tokens", label_names), []


def encode_labels(examples: list[Example], label_names: list[str]) -> list[np.ndarray]:
    """int64 (words,) for each text: ids of the tags."""
    number = {name: index for index, name in enumerate(label_names)}
    return [np.array([number[tag] for tag in example.label], dtype=np.int64) for example in examples]


class Head(nn.Module):
    """Cross-entropy of the tags, summed; counted are the tokens that learn one."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.label_all_tokens = model, config.label_all_tokens

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """Labels int64 (texts, 3, words): the words' tags above the places of their first and last tokens, -1 of a word
        without one, -100 beyond the last word; inputs as the tokenizer makes them, (texts, length).
        """
        tags, first, last = (row[..., None] for row in labels.unbind(1))
        after = torch.arange(int((last - first).max()) + 1 if self.label_all_tokens else 1, device=labels.device)
        places = first + after  # (texts, words, tokens of the longest word)
        # Odd is B-X, and the number after it I-X.
        tags = torch.where((after > 0) & (tags % 2 == 1), tags + 1, tags).flatten(1)
        tags = tags.masked_fill(((first < 0) | (places > last)).flatten(1), IGNORE_INDEX)
        logits = self.model(**inputs).logits.float()
        places = places.flatten(1).clamp(0, logits.shape[1] - 1)
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))
        loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), reduction="sum", ignore_index=IGNORE_INDEX)
        return Output(loss, (tags != IGNORE_INDEX).sum())

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities of every token, (texts, length, tags)."""
        return self.model(**inputs).logits.float().softmax(-1)


def decode_word_tags(probabilities: np.ndarray, first_tokens: np.ndarray) -> np.ndarray:
    """int64 (words,): the likeliest tag at each word's first token, of (length, tags); 0, which is O, without one."""
    return np.where(first_tokens >= 0, probabilities.argmax(-1)[first_tokens.clip(min=0)], 0)


def quick_metrics(probabilities: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    """Figures of probabilities, (length, tags) of each text, against (3, words): tags above places."""

    def named(ids: np.ndarray) -> list[str]:
        # The ids are those of `data.tasks.iob.names`: 0 is O, then two for each type.
        return ["O" if number == 0 else f"{'IB'[number % 2]}-{(number - 1) // 2}" for number in ids.tolist()]

    return metrics.entity_metrics(
        [named(decode_word_tags(of_text, places)) for of_text, (_, places, _) in zip(probabilities, labels)],
        [named(tags) for tags, *_ in labels],
    )
