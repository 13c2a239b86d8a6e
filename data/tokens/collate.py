"""Which rows make up a step: a pure function of (seed, step, process), so that resuming needs the step and nothing else.

order(step, batch_size, rows, seed) -> the row numbers of the global batch
generator(seed, step, row)          -> the random numbers of one row of it, the same whichever process draws them
"""

from __future__ import annotations

import numpy as np

from data.tokens.packing import pack_rows
from data.tokens.shards import Shards


def collate_rows(shards: Shards, indices: list[int]) -> dict[str, np.ndarray]:
    """Rows as one batch: `input_ids`, `position_ids`, `document_ids` int64 (rows, length), padding being document -1;
    and `cu_seqlens` int32 (documents + 1,), where documents begin in the rows laid end to end, and their end.
    """
    ids, position, document = (np.stack(column) for column in zip(*map(shards.get_row, indices)))
    return {
        "input_ids": ids,
        "position_ids": position,
        "document_ids": document,
        "cu_seqlens": compute_cu_seqlens(document),
    }


def pack_texts(texts: list[np.ndarray], max_length: int, pad_id: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Texts, `add_special_tokens` and none longer than `max_length`, as rows like those of `collate_rows`, `document_ids` being the number of the
    text; and where each token of the texts laid end to end went, int64 (tokens,), a number into the rows laid end to end.
    """
    sizes = np.array([len(text) for text in texts])
    chosen, starts = pack_rows(sizes, max_length)
    sizes_there, row = sizes[chosen], np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    ends = np.cumsum(sizes_there)
    before = ends - sizes_there
    first = np.empty(len(texts), np.int64)
    first[chosen] = row * max_length + before - before[starts[:-1]][row]
    position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at, shape = np.repeat(first, sizes) + position, (len(starts) - 1, max_length)
    rows = {
        "input_ids": np.full(shape, pad_id, np.int64),
        "position_ids": np.zeros(shape, np.int64),
        "document_ids": np.full(shape, -1, np.int64),
    }
    for name, values in (
        ("input_ids", np.concatenate(texts)),
        ("position_ids", position),
        ("document_ids", np.repeat(np.arange(len(texts)), sizes)),
    ):
        rows[name].reshape(-1)[at] = values
    return {**rows, "cu_seqlens": compute_cu_seqlens(rows["document_ids"])}, at


def add_special_tokens(ids: np.ndarray, special_ids: dict[str, int], max_length: int) -> np.ndarray:
    """int64: a text between its special tokens, cut off where it would be longer than `max_length`."""
    return np.concatenate([[special_ids["cls"]], ids[: max_length - 2], [special_ids["sep"]]]).astype(np.int64)


def compute_cu_seqlens(document_ids: np.ndarray) -> np.ndarray:
    """int32 (documents + 1,): where documents begin in the rows laid end to end, padding being one too; and the end."""
    begins = np.ones(document_ids.shape, dtype=bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return np.append(np.flatnonzero(begins), begins.size).astype(np.int32)
