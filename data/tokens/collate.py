"""Batches of packed rows: token ids, positions, documents and cumulative sequence lengths."""

import numpy as np

from data.tokens.packing import pack_rows
from data.tokens.shards import Shards


def collate_rows(shards: Shards, indices: list[int]) -> dict[str, np.ndarray]:
    """Collate rows into a batch; padding is document -1."""
    rows = zip(*map(shards.get_row, indices), strict=True)
    input_ids, position_ids, document_ids = (np.stack(column) for column in rows)
    return build_batch(input_ids, position_ids, document_ids)


def build_batch(input_ids: np.ndarray, position_ids: np.ndarray, document_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the batch of these arrays, int64 (rows, max_length), with `cu_seqlens` int32 (documents + 1,)."""
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "document_ids": document_ids,
        "cu_seqlens": compute_cu_seqlens(document_ids),
    }


def pack_texts(texts: list[np.ndarray], max_length: int, pad_id: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pack texts with special tokens, none longer than `max_length`, into rows.

    Returns (the batch as in `collate_rows`, `document_ids` being the number of the text; int64 (tokens,), the index in
    the flattened rows of each token of the concatenated texts).
    """
    sizes = np.array([len(text) for text in texts])
    order, starts = pack_rows(sizes, max_length)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    before = np.cumsum(sizes[order]) - sizes[order]
    first = np.empty(len(texts), np.int64)
    first[order] = row * max_length + before - before[starts[:-1]][row]
    position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at, shape = np.repeat(first, sizes) + position, (len(starts) - 1, max_length)

    def scatter(values: np.ndarray, fill_value: int) -> np.ndarray:
        rows = np.full(shape, fill_value, np.int64)
        rows.reshape(-1)[at] = values
        return rows

    document = np.repeat(np.arange(len(texts)), sizes)
    return build_batch(scatter(np.concatenate(texts), pad_id), scatter(position, 0), scatter(document, -1)), at


def add_special_tokens(ids: np.ndarray, special_ids: dict[str, int], max_length: int) -> np.ndarray:
    """Return a text, truncated to `max_length`, between its special tokens (int64)."""
    return np.concatenate([[special_ids["cls"]], ids[: max_length - 2], [special_ids["sep"]]]).astype(np.int64)


def compute_cu_seqlens(document_ids: np.ndarray) -> np.ndarray:
    """Return int32 (documents + 1,): document starts in the flattened rows, counting padding as one, and the end."""
    is_start = np.ones(document_ids.shape, dtype=bool)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return np.append(np.flatnonzero(is_start), is_start.size).astype(np.int32)
