"""Positive pairs of texts: two views of an unlabeled text, or the columns of a table."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from data.tokens.collate import add_special_tokens, pack_texts
from data.tokens.pairs import PairTable, load_pairs
from data.tokens.shards import Shards
from engine.training.step import MicroBatch
from pretrain.masking import Masking, mask_tokens
from pretrain.views import Views

BLOCK_PIECES = 2**20  # pieces in a block of the search for their documents


class PairDataset:
    """Pairs of texts from the shards' pieces or from a table, optionally masked."""

    modality: ClassVar[str] = "text"

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
        message = f"{short:.0%} of the pieces of text are of documents too short for {spans}"
        return f"{message}; objective.name=auto suits short texts" if short >= 0.5 else ""

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
        offset, end = self.shards.documents[document - 1 : document + 1].tolist()
        spans = sample_spans(end - offset, self.config, generator)
        return [self.shards.tokens[offset + span.start : offset + span.stop] for span in spans], [document] * 2


class ViewDataset(PairDataset):
    """Pairs of texts for a loss over embeddings alone, masked with views=mask."""

    def __init__(self, config: Views, shards: Shards, tokenizer_folder: Path):
        masking = Masking(mask_rate=config.mask_rate) if config.views == "mask" else None
        super().__init__(config, shards, tokenizer_folder, masking)

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make a micro-batch as `PairDataset` does, without the masked tokens to predict."""
        inputs, num_tokens = super().collate(indices, generators)
        unused = ("masked_indices", "targets")
        return MicroBatch({name: inputs[name] for name in inputs if name not in unused}, num_tokens)


def short_text_fraction(shards: Shards, min_span: int) -> float:
    """Return the fraction of the shards' pieces that are of documents too short for two spans of `min_span` tokens.

    Of pieces, as each of them, long or short, is one input of an epoch.
    """
    bounds, num_short = shards.documents, 0
    for start in range(0, len(shards.pieces), BLOCK_PIECES):
        number = np.searchsorted(bounds, shards.pieces[start : start + BLOCK_PIECES, 0], side="right")
        sizes = bounds[number] - bounds[number - 1]
        num_short += int((sizes < 2 * min_span).sum())
    return num_short / max(1, len(shards.pieces))


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
