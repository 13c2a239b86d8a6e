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

from data.encoders import LOAD_KWARGS, max_positions
from data.tasks.task import Example
from engine.errors import DataError
from engine.training.step import MicroBatch
from finetune.augment import augment_tokens
from finetune.config import Augment

TOKENIZE_CHUNK_TEXTS = 10_000  # texts tokenised together: a tokenizer keeps far more of each than its numbers


@dataclass
class TextDataset:
    """One split, tokenised."""

    fields: dict[str, list[np.ndarray]]
    """input_ids, attention_mask and what else the tokenizer makes, int32 (tokens,) for each text."""
    labels: np.ndarray | list[np.ndarray] | None
    """What the head learns of each text, as its `targets` made it; none of texts nobody has labelled."""
    padding_values: dict[str, int]
    """What each field is padded with."""
    special_token_ids: frozenset[int] = frozenset()
    """The tokens the tokenizer puts around texts."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (texts,): tokens of each, special ones included."""
        return np.array([len(ids) for ids in self.fields["input_ids"]])

    def get_inputs(self, indices: np.ndarray, token_indices: list[np.ndarray] | None = None) -> dict[str, torch.Tensor]:
        """What the model takes for the texts at `indices`, each int64 (texts, longest of them).

        token_indices: which tokens of each text are shown, in what order; none: all, as they stand.
        """
        longest = int(self.lengths[indices].max()) if token_indices is None else max(map(len, token_indices))
        inputs = {}
        for name, rows in self.fields.items():
            padded = np.full((len(indices), longest), self.padding_values[name], dtype=np.int64)
            for line, place in enumerate(indices):
                row = rows[place] if token_indices is None else rows[place][token_indices[line]]
                padded[line, : len(row)] = row
            inputs[name] = torch.from_numpy(padded)
        return inputs

    def get_batch(
        self, indices: np.ndarray, augment: Augment | None = None, generators: list[np.random.Generator] | None = None
    ) -> MicroBatch:
        """The texts at `indices` with their labels, (texts, ...); augment: varied so, each by its own of the generators."""
        kept = (
            None
            if augment is None
            else [
                augment_tokens(
                    np.isin(self.fields["input_ids"][place], list(self.special_token_ids)), augment, generator
                )
                for place, generator in zip(indices, generators)
            ]
        )
        labels = (
            self.labels[indices]
            if isinstance(self.labels, np.ndarray)
            else pad_labels([self.labels[place] for place in indices])
        )
        return MicroBatch(
            {**self.get_inputs(indices, kept), "labels": torch.from_numpy(labels)},
            int(self.lengths[indices].sum()) if kept is None else sum(map(len, kept)),
        )


def pad_labels(rows: list[np.ndarray]) -> np.ndarray:
    """Arrays (..., own length) as one, (rows, ..., longest), -100 where a row has ended."""
    padded = np.full((len(rows), *rows[0].shape[:-1], max(row.shape[-1] for row in rows)), -100, dtype=np.int64)
    for line, row in zip(padded, rows):
        line[..., : row.shape[-1]] = row
    return padded


def align_words(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
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


def tokenize_examples(
    examples: list[Example],
    folder: Path,
    max_length: int,
    description: str,
    encode_labels: Callable[[list[Example], list[str]], np.ndarray] | None = None,
    label_names: list[str] = [],
    word_labels: bool = False,
) -> TextDataset:
    """Token ids of the examples, and what `encode_labels`, a head's, makes of their labels, whose names are `label_names`.

    word_labels: the labels are of words; what is learnt is (3, words), them above the places of a word's first and last token.
    Raises DataError for a text that has no tokens, or a tokenizer that cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOAD_KWARGS)
    except Exception as error:
        raise DataError(f"{folder}: no tokenizer there ({str(error).strip().splitlines()[0]})") from None
    if word_labels and not tokenizer.is_fast:
        raise DataError(f"{folder}: its tokenizer does not tell where its tokens stand, which labels of words need")
    count, between = len(examples[0].texts), tokenizer.sep_token or tokenizer.eos_token or "\n"
    # Tokenizers know of one text and of pairs.
    rows = ((between.join(example.texts),) if count > 2 else example.texts for example in examples)
    columns = [list(column) for column in zip(*rows)]
    config = AutoConfig.from_pretrained(folder, **LOAD_KWARGS)
    positions = max_positions(config) if (getattr(config, "max_position_embeddings", 0) or 0) > 0 else max_length
    fields, offsets = defaultdict(list), []
    for at in range(0, len(examples), TOKENIZE_CHUNK_TEXTS):
        made = dict(
            tokenizer(
                *(column[at : at + TOKENIZE_CHUNK_TEXTS] for column in columns),
                truncation=True,
                return_offsets_mapping=word_labels,
                max_length=min(max_length, tokenizer.model_max_length, positions),
            )
        )
        offsets += made.pop("offset_mapping", [])
        for name, rows in made.items():
            fields[name] += [np.array(row, dtype=np.int32) for row in rows]
    empty = (
        len(tokenizer(between * (count - 1))["input_ids"])
        if count > 2
        else tokenizer.num_special_tokens_to_add(count == 2)
    )
    for example, ids in zip(examples, fields["input_ids"]):
        if len(ids) <= empty:
            raise DataError(f"{description}: the text {example.texts[0]!r} has no tokens")
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    labels = encode_labels(examples, label_names) if encode_labels else None
    if word_labels and encode_labels:
        labels = [
            np.vstack([own, align_words(example.texts[0], spans)])
            for own, example, spans in zip(labels, examples, offsets)
        ]
    return TextDataset(
        dict(fields),
        labels,
        {name: padding.get(name, 0) for name in fields},
        frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id},
    )
