"""Positive pairs of texts: two views of an unlabeled text, or the columns of a table."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from data.tokens.collate import add_special_tokens, pack_texts
from data.tokens.pairs import PairSource, PairTable, load_pairs
from data.tokens.shards import Shards
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.training.step import MicroBatch
from pretrain.masking import Masking, mask_tokens

OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class Views(Section):
    """The two texts of a positive pair."""

    views: Literal["span", "mask", "delete", "dropout", "pairs"] = "span"
    """span: two spans of one document (Giorgi et al. 2021); mask: one text masked twice; delete: one text with tokens
    deleted twice, the noise of TSDAE (Wang et al. 2021); dropout: one text under two dropout masks (Gao et al. 2021),
    needs dropout; pairs: columns of your own table."""
    pairs: PairSource | None = None
    """The table for views=pairs (files, hub or wheel) and its columns: anchor, positive, and optionally negative."""
    min_span: PositiveInt = 16
    """Minimum tokens of a span, if the document has as many."""
    max_span: PositiveInt = 48
    """Maximum tokens of a span."""
    max_gap: NonNegativeInt = 64
    """Maximum tokens between the two spans of a pair."""
    overlap: bool = False
    """Whether the two spans may overlap; they do in a document too short for two separate spans."""
    mask_rate: OpenFraction = 0.3
    """Fraction of each text's tokens to mask or delete, with views=mask or delete."""
    projection_dim: PositiveInt | None = None
    """Width of a two-layer projection between embeddings and loss, not saved; none: no projection."""

    @model_validator(mode="after")
    def check_spans(self) -> Views:
        """Reject contradictory settings."""
        if self.min_span > self.max_span:
            raise ValueError(f"min_span={self.min_span} is more than max_span={self.max_span}")
        if (self.views == "pairs") != (self.pairs is not None):
            raise ValueError("views=pairs and pairs.files (or hub, or wheel) go together")
        return self

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raise ConfigError if these views leave nothing to learn with the rest of the configuration."""
        if self.views == "dropout" and dropout == 0:
            raise ConfigError(
                "objective.views: dropout makes two views of a text by dropout; set for example dropout=0.1"
            )
        if self.views == "span" and self.max_span > max_length - 2:
            limit = f"{self.max_span} tokens and two special ones do not fit max_length={max_length}"
            raise ConfigError(f"objective.max_span: {limit}")


class PairDataset:
    """Pairs of texts from the shards' pieces or from a table, optionally masked."""

    def __init__(self, config: Views, shards: Shards, tokenizer_folder: Path, masking: Masking | None = None):
        self.config, self.shards, self.masking = config, shards, masking
        self.table: PairTable | None = load_pairs(config.pairs, tokenizer_folder) if config.pairs else None

    def __len__(self) -> int:
        return len(self.shards.pieces if self.table is None else self.table)

    def warning(self) -> str:
        """Return a warning about an unsuitable corpus, usually empty."""
        if self.config.views != "span":
            return ""
        short = short_text_fraction(self.shards, self.config.min_span)
        spans = f"two spans of objective.min_span={self.config.min_span}"
        text = f"{short:.0%} of the text is in documents too short for {spans}; objective.name=auto suits short texts"
        return text if short >= 0.5 else ""

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make packed rows with one document per text, pair by pair; with masking, also `masked_indices` and `targets`.

        `group_ids`, int64 (pairs, texts per pair), is the same for texts that are not negatives of each other.
        """
        pairs = [self.sample_pair(*item) for item in zip(indices, generators, strict=True)]
        special_ids, max_length = self.shards.special_ids, self.shards.max_length
        texts = [add_special_tokens(text, special_ids, max_length) for pair, _ in pairs for text in pair]
        shown, masks = texts, []
        if self.masking:
            per_pair = len(texts) // len(pairs)
            masked = [
                mask_tokens(self.masking, text, np.zeros(len(text)), self.shards, generators[number // per_pair])
                for number, text in enumerate(texts)
            ]
            shown, masks = zip(*masked, strict=True)
        inputs, positions = pack_texts(list(shown), max_length, special_ids["pad"])
        inputs["group_ids"] = np.array([group_ids for _, group_ids in pairs], np.int64)
        if self.masking:
            mask = np.concatenate(masks)
            inputs |= {"masked_indices": positions[mask], "targets": np.concatenate(texts)[mask]}
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, len(positions))

    def sample_pair(self, index: int, generator: np.random.Generator) -> tuple[list[np.ndarray], list[int]]:
        """Return (token ids of the texts of one pair, without special tokens; their group ids)."""
        if self.table is not None:
            pair = self.table[index]
            return pair, [hash_tokens(text) for text in pair]
        start, size = self.shards.pieces[index]
        if self.config.views != "span":
            text = self.shards.tokens[start : start + size]
            views = [text, text]
            if self.config.views == "delete":
                views = [delete_tokens(text, self.config.mask_rate, generator) for _ in range(2)]
            return views, [hash_tokens(text)] * 2
        document = int(np.searchsorted(self.shards.documents, start, side="right"))
        offset = int(self.shards.documents[document - 1]) if document else 0
        spans = sample_spans(int(self.shards.documents[document]) - offset, self.config, generator)
        return [self.shards.tokens[offset + span.start : offset + span.stop] for span in spans], [document] * 2


def short_text_fraction(shards: Shards, min_span: int) -> float:
    """Compute the fraction of the shards' pieces that are of documents too short for two spans of `min_span` tokens."""
    sizes = np.diff(shards.documents, prepend=0)
    document = np.searchsorted(shards.documents, shards.pieces[:, 0], side="right")
    return float((sizes[document] < 2 * min_span).mean())


def sample_spans(document_length: int, config: Views, generator: np.random.Generator) -> tuple[slice, slice]:
    """Sample two spans of a document, with uniform lengths and positions, at most `max_gap` tokens apart."""
    lengths = np.minimum(generator.integers(config.min_span, config.max_span + 1, size=2), document_length)
    first_length, second_length = map(int, lengths)
    first = int(generator.integers(0, document_length - first_length + 1))
    earliest = max(0, first - config.max_gap - second_length)
    latest = min(document_length - second_length, first + first_length + config.max_gap)
    before, after = range(earliest, first - second_length + 1), range(first + first_length, latest + 1)
    num_separate = len(before) + len(after)
    if config.overlap or not num_separate:
        second = int(generator.integers(earliest, latest + 1))
    else:
        index = int(generator.integers(0, num_separate))
        second = before[index] if index < len(before) else after[index - len(before)]
    return slice(first, first + first_length), slice(second, second + second_length)


def delete_tokens(ids: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Return token ids, (length,), without a random `rate` of them; at least one is kept."""
    kept = max(1, len(ids) - round(rate * len(ids)))
    return ids[np.sort(generator.permutation(len(ids))[:kept])]


def hash_tokens(ids: np.ndarray) -> int:
    """Hash token ids to a signed 64-bit integer."""
    digest = hashlib.blake2b(ids.astype(np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
