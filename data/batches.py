"""Which rows make up a step: a pure function of (seed, step, process), so that resuming needs the step and nothing else.

    order(step, batch_size, rows, seed) -> the row numbers of the global batch
    generator(seed, step, row)          -> the random numbers of one row of it, the same whichever process draws them
"""

from __future__ import annotations

import numpy as np

from data.shards import Shards

ROUNDS = 6


def permuted(index: np.ndarray, size: int, key: tuple[int, int]) -> np.ndarray:
    """`index` (integers in [0, size)) under a keyed permutation of [0, size), without ever holding the permutation.

    A Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside (Black and
    Rogaway 2002). Any step of any corpus is found at once.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    rounds = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).integers(
        1, 2**63, size=(ROUNDS, 2), dtype=np.uint64) | np.uint64(1)
    shift = np.uint64(half)
    result, outside = index.astype(np.uint64), np.ones(len(index), dtype=bool)
    while outside.any():
        value = result[outside]
        left, right = value >> shift, value & mask
        for multiplier, increment in rounds:
            mixed = (right + increment) * multiplier
            mixed ^= mixed >> np.uint64(29)
            mixed *= multiplier
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        result[outside] = (left << shift) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def order(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """int64 (batch_size,): the rows of the global batch of `step`. Every row is seen once before any is seen again."""
    place = step * batch_size + np.arange(batch_size)
    epoch = place // rows
    chosen = np.empty(batch_size, dtype=np.int64)
    for number in range(int(epoch[0]), int(epoch[-1]) + 1):
        here = epoch == number
        chosen[here] = permuted(place[here] % rows, rows, (seed, number))
    return chosen


def by_length(step: int, batch_size: int, lengths: np.ndarray, seed: int, together: int) -> np.ndarray:
    """As `order`, but the rows of `together` successive batches are dealt out by length, so that little is padded."""
    first = step - step % together
    chosen = np.concatenate([order(first + ahead, batch_size, len(lengths), seed) for ahead in range(together)])
    chosen = chosen[np.argsort(lengths[chosen], kind="stable")].reshape(together, batch_size)
    turn = np.random.Generator(np.random.Philox(key=[seed, 2**32 + first])).permutation(together)
    return chosen[turn[step - first]]


def generator(seed: int, step: int, row: int) -> np.random.Generator:
    """The random numbers of the `row`-th row of a step's global batch (Philox; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**33], counter=[0, 0, step, row]))


def packed(shards: Shards, rows: list[int]) -> dict[str, np.ndarray]:
    """Rows as one batch: `input_ids`, `position_ids`, `document_ids` int64 (rows, length), padding being document -1;
    and `document_bounds` int32 (documents + 1,), where documents begin in the rows laid end to end, and their end."""
    ids, position, document = (np.stack(column) for column in zip(*map(shards.row, rows)))
    begins = np.ones(document.shape, dtype=bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    bounds = np.append(np.flatnonzero(begins), begins.size).astype(np.int32)
    return {"input_ids": ids, "position_ids": position, "document_ids": document, "document_bounds": bounds}


def slices(count: int, process: int, processes: int, micro_batch: int | None) -> list[np.ndarray]:
    """Places of the global batch that each micro-batch of one process takes. Together the processes take each once."""
    own = np.arange(process, count, processes)
    return np.split(own, range(micro_batch, len(own), micro_batch)) if micro_batch else [own]
