"""Labelled texts as token ids, and their batches padded to the longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from data.encoders import SAFELY, positions_of
from data.labelled import Example
from engine.errors import DataError
from engine.gradient import Batch
from finetune.augment import varied
from finetune.config import Augment

PIECE = 10_000  # texts tokenised together: a tokenizer keeps far more of each than its numbers


@dataclass
class Texts:
    """One split, tokenised."""

    fields: dict[str, list[np.ndarray]]
    """input_ids, attention_mask and what else the tokenizer makes, int32 (tokens,) for each text."""
    labels: np.ndarray | list[np.ndarray] | None
    """What the head learns of each text, as its `targets` made it; none of texts nobody has labelled."""
    padding: dict[str, int]
    """What each field is padded with."""
    special: frozenset[int] = frozenset()
    """The tokens the tokenizer puts around texts."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (texts,): tokens of each, special ones included."""
        return np.array([len(ids) for ids in self.fields["input_ids"]])

    def inputs(self, places: np.ndarray, kept: list[np.ndarray] | None = None) -> dict[str, torch.Tensor]:
        """What the model takes for the texts at `places`, each int64 (texts, longest of them).

        kept: which tokens of each text are shown, in what order; none: all, as they stand.
        """
        longest = int(self.lengths[places].max()) if kept is None else max(map(len, kept))
        inputs = {}
        for name, rows in self.fields.items():
            padded = np.full((len(places), longest), self.padding[name], dtype=np.int64)
            for line, place in enumerate(places):
                row = rows[place] if kept is None else rows[place][kept[line]]
                padded[line, :len(row)] = row
            inputs[name] = torch.from_numpy(padded)
        return inputs

    def batch(self, places: np.ndarray, augment: Augment | None = None,
              generators: list[np.random.Generator] | None = None) -> Batch:
        """The texts at `places` with their labels, (texts, ...); augment: varied so, each by its own of the generators."""
        kept = None if augment is None else [
            varied(np.isin(self.fields["input_ids"][place], list(self.special)), augment, generator)
            for place, generator in zip(places, generators)]
        labels = self.labels[places] if isinstance(self.labels, np.ndarray) else \
            ragged([self.labels[place] for place in places])
        return Batch({**self.inputs(places, kept), "labels": torch.from_numpy(labels)},
                     int(self.lengths[places].sum()) if kept is None else sum(map(len, kept)))


def ragged(rows: list[np.ndarray]) -> np.ndarray:
    """Arrays (..., own length) as one, (rows, ..., longest), -100 where a row has ended."""
    padded = np.full((len(rows), *rows[0].shape[:-1], max(row.shape[-1] for row in rows)), -100, dtype=np.int64)
    for line, row in zip(padded, rows):
        line[..., :row.shape[-1]] = row
    return padded


def places_of_words(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """int64 (2, words): the first token of each word of a text, a space between any two, and the last; -1 without one.

    `offsets` are the characters each token stands for, (0, 0) of a special one.
    """
    word = np.cumsum([character == " " for character in text])  # of each character
    places = np.full((2, text.count(" ") + 1), -1)
    for place, (start, end) in enumerate(offsets):
        # By the last character: the first may be the space before, which some tokenizers count to the token.
        if start < end and text[end - 1] != " ":
            own = word[end - 1]
            places[:, own] = places[0, own] if places[0, own] >= 0 else place, place
    return places


def tokenise(examples: list[Example], encoder: Path, max_length: int, what: str,
             targets: Callable[[list[Example], list[str]], np.ndarray] | None = None, names: list[str] = [],
             words: bool = False) -> Texts:
    """Token ids of the examples, and what `targets`, a head's, makes of their labels, whose names are `names`.

    words: the labels are of words; what is learnt is (3, words), them above the places of a word's first and last token.
    Raises DataError for a text that has no tokens, or a tokenizer that cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, **SAFELY)
    except Exception as error:
        raise DataError(f"{encoder}: no tokenizer there ({str(error).strip().splitlines()[0]})") from None
    if words and not tokenizer.is_fast:
        raise DataError(f"{encoder}: its tokenizer does not tell where its tokens stand, which labels of words need")
    count, between = len(examples[0].texts), tokenizer.sep_token or tokenizer.eos_token or "\n"
    # Tokenizers know of one text and of pairs.
    rows = ((between.join(example.texts),) if count > 2 else example.texts for example in examples)
    columns = [list(column) for column in zip(*rows)]
    config = AutoConfig.from_pretrained(encoder, **SAFELY)
    positions = positions_of(config) if (getattr(config, "max_position_embeddings", 0) or 0) > 0 else max_length
    fields, offsets = defaultdict(list), []
    for at in range(0, len(examples), PIECE):
        made = dict(tokenizer(*(column[at:at + PIECE] for column in columns), truncation=True, return_offsets_mapping=words,
                              max_length=min(max_length, tokenizer.model_max_length, positions)))
        offsets += made.pop("offset_mapping", [])
        for name, rows in made.items():
            fields[name] += [np.array(row, dtype=np.int32) for row in rows]
    empty = len(tokenizer(between * (count - 1))["input_ids"]) if count > 2 else tokenizer.num_special_tokens_to_add(count == 2)
    for example, ids in zip(examples, fields["input_ids"]):
        if len(ids) <= empty:
            raise DataError(f"{what}: the text {example.texts[0]!r} has no tokens")
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    labels = targets(examples, names) if targets else None
    if words and targets:
        labels = [np.vstack([own, places_of_words(example.texts[0], spans)])
                  for own, example, spans in zip(labels, examples, offsets)]
    return Texts(dict(fields), labels, {name: padding.get(name, 0) for name in fields},
                 frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
