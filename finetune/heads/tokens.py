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

from data.labelled import Example
from engine.config import Section
from engine.gradient import Output
from finetune import metrics, network

KIND = "tags"
SHOWN = ("f1", "precision", "recall")
MONITOR = "f1"
HEAD_LR = 1e-3
NOT_LABELLED = -100  # what transformers' losses pass over


class Config(Section):
    """Tags of words, for entities."""

    name: Literal["tokens"] = "tokens"
    """tokens: a tag for each word."""
    pieces: Literal["first", "all"] = "first"
    """Which tokens of a word learn its tag; all: those after the first of a B-X learn I-X, so that words come out whole
    by aggregation_strategy="simple" too; the figures are by the first either way."""


def build(config: Config, folder: Path, labels: list[str], dropout: float,
          random: bool = False) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain token classifier on the encoder in `folder`, no constants).

    random: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    return network.load(AutoModelForTokenClassification, folder, dropout, random, "tags of tokens", labels), []


def targets(examples: list[Example], names: list[str]) -> list[np.ndarray]:
    """int64 (words,) for each text: ids of the tags."""
    number = {name: index for index, name in enumerate(names)}
    return [np.array([number[tag] for tag in example.label], dtype=np.int64) for example in examples]


class Head(nn.Module):
    """Cross-entropy of the tags, summed; counted are the tokens that learn one."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.all = model, config.pieces == "all"

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """labels int64 (texts, 3, words): the words' tags above the places of their first and last tokens, -1 of a word
        without one, -100 beyond the last word; inputs as the tokenizer makes them, (texts, length)."""
        tags, first, last = (row[..., None] for row in labels.unbind(1))
        after = torch.arange(int((last - first).max()) + 1 if self.all else 1, device=labels.device)
        places = first + after  # (texts, words, tokens of the longest word)
        # Odd is B-X, and the number after it I-X.
        tags = torch.where((after > 0) & (tags % 2 == 1), tags + 1, tags).flatten(1)
        tags = tags.masked_fill(((first < 0) | (places > last)).flatten(1), NOT_LABELLED)
        logits = self.model(**inputs).logits.float()
        places = places.flatten(1).clamp(0, logits.shape[1] - 1)
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))
        loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), reduction="sum", ignore_index=NOT_LABELLED)
        return Output(loss, (tags != NOT_LABELLED).sum())

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities of every token, (texts, length, tags)."""
        return self.model(**inputs).logits.float().softmax(-1)


def said(probabilities: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int64 (words,): the likeliest tag at each word's first token, of (length, tags); 0, which is O, without one."""
    return np.where(places >= 0, probabilities.argmax(-1)[places.clip(min=0)], 0)


def score(probabilities: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    """Figures of probabilities, (length, tags) of each text, against (3, words): tags above places."""
    def named(ids: np.ndarray) -> list[str]:
        # The ids are those of `data.tags.names`: 0 is O, then two for each type.
        return ["O" if number == 0 else f"{'IB'[number % 2]}-{(number - 1) // 2}" for number in ids.tolist()]

    return metrics.entities([named(said(of_text, places)) for of_text, (_, places, _) in zip(probabilities, labels)],
                            [named(tags) for tags, *_ in labels])
