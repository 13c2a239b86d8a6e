"""Labelled texts as token ids, and their batches padded to the longest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from data.labelled import Example
from engine.errors import DataError
from engine.loop import Batch


@dataclass
class Texts:
    """One split, tokenised."""

    fields: dict[str, list[list[int]]]
    """input_ids, attention_mask and what else the tokenizer makes, a list for each text."""
    labels: np.ndarray | list[np.ndarray] | None
    """What the head learns of each text, as its `targets` made it; none of texts nobody has labelled."""
    padding: dict[str, int]
    """What each field is padded with."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 (texts,): tokens of each, special ones included."""
        return np.array([len(ids) for ids in self.fields["input_ids"]])

    def inputs(self, places: np.ndarray) -> dict[str, torch.Tensor]:
        """What the model takes for the texts at `places`, each int64 (texts, longest of them)."""
        longest = int(self.lengths[places].max())
        inputs = {}
        for name, rows in self.fields.items():
            padded = np.full((len(places), longest), self.padding[name], dtype=np.int64)
            for line, place in enumerate(places):
                padded[line, :len(rows[place])] = rows[place]
            inputs[name] = torch.from_numpy(padded)
        return inputs

    def batch(self, places: np.ndarray) -> Batch:
        """The texts at `places` with their labels, (texts, ...)."""
        return Batch({**self.inputs(places), "labels": torch.from_numpy(self.labels[places])},
                     int(self.lengths[places].sum()))


def tokenise(examples: list[Example], encoder: Path, max_length: int, what: str,
             targets: Callable[[list[Example], list[str]], np.ndarray] | None = None, names: list[str] = []) -> Texts:
    """Token ids of the examples, and what `targets`, a head's, makes of their labels, whose names are `names`.

    Raises DataError for a text that has no tokens, or a tokenizer that cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
    except Exception as error:
        raise DataError(f"{encoder}: no tokenizer there ({str(error).strip().splitlines()[0]})") from None
    pair = len(examples[0].texts) == 2
    columns = [list(column) for column in zip(*(example.texts for example in examples))]
    fields = dict(tokenizer(*columns, truncation=True, max_length=min(max_length, tokenizer.model_max_length)))
    empty = tokenizer.num_special_tokens_to_add(pair)
    for example, ids in zip(examples, fields["input_ids"]):
        if len(ids) <= empty:
            raise DataError(f"{what}: the text {example.texts[0]!r} has no tokens")
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Texts(fields, targets(examples, names) if targets else None, {name: padding.get(name, 0) for name in fields})
