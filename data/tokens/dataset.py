"""Texts as token ids, with labels if they have any, and their padded batches."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, BatchEncoding

from data.encoders import limit_length
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from engine.errors import DataError, first_line
from engine.models import LOAD_KWARGS
from engine.models.load import load_tokenizer
from engine.training.step import MicroBatch

TOKENIZE_CHUNK_TEXTS = 10_000  # a tokenizer's output takes far more memory than its token ids
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(bool (tokens,), whether a token is special; generator) -> indices of the tokens to take, in order."""


@dataclass
class TextDataset:
    """One tokenized split."""

    fields: dict[str, list[np.ndarray]]
    """Outputs of the tokenizer (input_ids, attention_mask, ...), int32 (tokens,) for each text."""
    labels: np.ndarray | list[np.ndarray] | None
    """Labels as the problem type's `encode_labels` returns them; None for unlabeled texts."""
    padding_values: dict[str, int]
    """Padding value of each field."""
    special_token_ids: frozenset[int] = frozenset()
    """Ids of the tokens that the tokenizer adds around texts."""
    max_length: int | None = None
    """Maximum number of tokens of a text."""
    num_truncated: int = 0
    """Number of texts that had more and were cut."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, special ones included: int64 (texts,)."""
        return np.array([len(ids) for ids in self.fields["input_ids"]])

    def get_inputs(self, indices: np.ndarray, token_indices: list[np.ndarray] | None = None) -> dict[str, torch.Tensor]:
        """Return the padded model inputs of the texts at `indices`, each int64 (texts, longest of them).

        token_indices: tokens to take of each text, in order; None: all.
        """
        length = int(self.lengths[indices].max()) if token_indices is None else max(map(len, token_indices))
        inputs = {}
        for name, rows in self.fields.items():
            padded = np.full((len(indices), length), self.padding_values[name], dtype=np.int64)
            for i, index in enumerate(indices):
                row = rows[index] if token_indices is None else rows[index][token_indices[i]]
                padded[i, : len(row)] = row
            inputs[name] = torch.from_numpy(padded)
        return inputs

    def get_batch(
        self, indices: np.ndarray, augment: Augment | None = None, generators: list[np.random.Generator] | None = None
    ) -> MicroBatch:
        """Return the texts at `indices` and their labels, (texts, ...), augmented with one generator for each text."""
        kept, num_tokens = None, int(self.lengths[indices].sum())
        if augment is not None:
            ids, special = self.fields["input_ids"], list(self.special_token_ids)
            kept = [
                augment(np.isin(ids[index], special), generator)
                for index, generator in zip(indices, generators, strict=True)
            ]
            num_tokens = sum(map(len, kept))
        is_array = isinstance(self.labels, np.ndarray)
        labels = self.labels[indices] if is_array else pad_labels([self.labels[index] for index in indices])
        return MicroBatch({**self.get_inputs(indices, kept), "labels": torch.from_numpy(labels)}, num_tokens)


def pad_labels(rows: list[np.ndarray]) -> np.ndarray:
    """Stack arrays (..., length of the row) to (rows, ..., longest), padded with -100."""
    padded = np.full((len(rows), *rows[0].shape[:-1], max(row.shape[-1] for row in rows)), -100, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return padded


def align_words(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return the first and last token of each word, int64 (2, words), -1 for a word without tokens.

    text: words separated by one space. offsets: the character span of each token, (0, 0) for special tokens.
    """
    word_of_character = np.cumsum([character == " " for character in text])
    spans = np.full((2, text.count(" ") + 1), -1)
    for index, (start, end) in enumerate(offsets):
        # By the last character, because some tokenizers count the space before a word to its first token.
        if start < end and text[end - 1] != " ":
            word = word_of_character[end - 1]
            spans[:, word] = spans[0, word] if spans[0, word] >= 0 else index, index
    return spans


class ExampleTokenizer:
    """The tokenizer in a folder, for texts of at most `max_length` tokens. Raises DataError if it cannot be loaded."""

    def __init__(self, folder: Path, max_length: int):
        self.folder = folder
        try:
            config = AutoConfig.from_pretrained(folder, **LOAD_KWARGS)
        except Exception as error:
            raise DataError(f"{folder}: transformers cannot load it ({first_line(error)})") from None
        self.tokenizer = load_tokenizer(folder)
        if "attention_mask" not in self.tokenizer.model_input_names:
            hint = "add attention_mask to model_input_names in tokenizer_config.json"
            raise DataError(f"{folder}: its tokenizer returns no attention mask; {hint}")
        if (num_embeddings := getattr(config, "vocab_size", None)) and len(self.tokenizer) > num_embeddings:
            raise DataError(
                f"{folder}: its tokenizer has {len(self.tokenizer):,} tokens, its network {num_embeddings:,} embeddings"
            )
        self.max_length = limit_length(max_length, self.tokenizer, config)

    def tokenize(
        self,
        examples: list[Example],
        description: str,
        problem_type: ProblemType | None = None,
        label_names: list[str] | tuple[str, ...] = (),
        allow_empty: bool = False,
    ) -> TextDataset:
        """Tokenize the examples, as `tokenize_examples` does."""
        tokenizer, word_labels = self.tokenizer, problem_type is not None and problem_type.labels_words
        if word_labels and not tokenizer.is_fast:
            raise DataError(f"{self.folder}: its tokenizer returns no character offsets, which word labels need")
        count, separator = len(examples[0].texts), tokenizer.sep_token or tokenizer.eos_token or "\n"
        # Tokenizers take one text or a pair.
        rows = [(separator.join(example.texts),) if count > 2 else example.texts for example in examples]
        columns = [list(column) for column in zip(*rows, strict=True)]
        options = {"truncation": True, "return_offsets_mapping": word_labels, "max_length": self.max_length}
        fields, offsets, num_truncated = defaultdict(list), [], 0
        for start in range(0, len(examples), TOKENIZE_CHUNK_TEXTS):
            batch = tokenizer(*(column[start : start + TOKENIZE_CHUNK_TEXTS] for column in columns), **options)
            num_truncated += count_truncated(batch, self.max_length)
            encoded = dict(batch)
            offsets += encoded.pop("offset_mapping", [])
            for name, values in encoded.items():
                fields[name] += [np.array(row, dtype=np.int32) for row in values]
        if count > 2:
            num_special = len(tokenizer(separator * (count - 1))["input_ids"])
        else:
            num_special = tokenizer.num_special_tokens_to_add(count == 2)
        for example, ids in zip(examples, fields["input_ids"], strict=True):
            if len(ids) <= num_special and not allow_empty:
                raise DataError(f"{description}: the text {example.texts[0]!r} has no tokens")
        labels = problem_type.encode_labels(examples, label_names) if problem_type else None
        if word_labels:
            words = [align_words(row.texts[0], spans) for row, spans in zip(examples, offsets, strict=True)]
            labels = [np.vstack(pair) for pair in zip(labels, words, strict=True)]
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        special_token_ids = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        values = {name: padding.get(name, 0) for name in fields}
        return TextDataset(dict(fields), labels, values, special_token_ids, self.max_length, num_truncated)


def tokenize_examples(
    examples: list[Example],
    folder: Path,
    max_length: int,
    description: str,
    problem_type: ProblemType | None = None,
    label_names: list[str] | tuple[str, ...] = (),
    allow_empty: bool = False,
) -> TextDataset:
    """Tokenize the examples, and encode their labels if there is a problem type.

    Labels of words become (3, words): label, first and last token of each word. Raise DataError for a text without
    tokens, unless `allow_empty`, or a tokenizer that cannot be loaded. description: of the examples, for errors.
    """
    tokenizer = ExampleTokenizer(folder, max_length)
    return tokenizer.tokenize(examples, description, problem_type, label_names, allow_empty)


def count_truncated(batch: BatchEncoding, max_length: int) -> int:
    """Count the texts that were cut; without a fast tokenizer, those that fill the maximum length."""
    if batch.is_fast:
        return sum(bool(encoding.overflowing) for encoding in batch.encodings)
    return sum(len(ids) >= max_length for ids in batch["input_ids"])
