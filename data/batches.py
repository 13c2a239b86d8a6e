"""Which rows make up a step: a pure function of (seed, step, process), so that resuming needs the step and nothing else.

    order(step, batch_size, rows, seed) -> the row numbers of the global batch
    generator(seed, step, row)          -> the random numbers of one row of it, the same whichever process draws them
"""

from __future__ import annotations

import numpy as np

from data.packing import pack
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


def by_class(step: int, batch_size: int, classes: np.ndarray, seed: int, together: int = 1) -> np.ndarray:
    """int64 (batch_size,): rows so that all classes come equally often, in turn, `together` rows of one at a time.

    classes: int64 (rows,), which class each row is of. Within a class every row is seen once before any is seen again.
    """
    present, number = np.unique(classes, return_inverse=True)
    place = step * batch_size + np.arange(batch_size)
    turn = place // together
    chosen = np.empty(batch_size, dtype=np.int64)
    whose = turn % len(present)
    for cycle in np.unique(turn // len(present)):
        # Each cycle goes through the classes in an order of its own.
        here = turn // len(present) == cycle
        whose[here] = permuted(whose[here], len(present), (seed, 2**34 + int(cycle)))
    drawn = turn // len(present) * together + place % together
    for name in np.unique(whose):
        rows, here = np.flatnonzero(number == name), whose == name
        epoch, within = np.divmod(drawn[here], len(rows))
        chosen[here] = [rows[permuted(np.array([one]), len(rows), (seed + int(name) * 2**32, int(turned)))[0]]
                        for one, turned in zip(within, epoch)]
    return chosen


def generator(seed: int, step: int, row: int) -> np.random.Generator:
    """The random numbers of the `row`-th row of a step's global batch (Philox; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**33], counter=[0, 0, step, row]))


def packed(shards: Shards, rows: list[int]) -> dict[str, np.ndarray]:
    """Rows as one batch: `input_ids`, `position_ids`, `document_ids` int64 (rows, length), padding being document -1;
    and `document_bounds` int32 (documents + 1,), where documents begin in the rows laid end to end, and their end."""
    ids, position, document = (np.stack(column) for column in zip(*map(shards.row, rows)))
    return {"input_ids": ids, "position_ids": position, "document_ids": document, "document_bounds": bounds_of(document)}


def laid_out(texts: list[np.ndarray], length: int, padding: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Texts, `framed` and none longer than `length`, as rows like those of `packed`, `document_ids` being the number of the
    text; and where each token of the texts laid end to end went, int64 (tokens,), a number into the rows laid end to end."""
    sizes = np.array([len(text) for text in texts])
    chosen, starts = pack(sizes, length)
    sizes_there, row = sizes[chosen], np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    ends = np.cumsum(sizes_there)
    before = ends - sizes_there
    first = np.empty(len(texts), np.int64)
    first[chosen] = row * length + before - before[starts[:-1]][row]
    position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at, shape = np.repeat(first, sizes) + position, (len(starts) - 1, length)
    rows = {"input_ids": np.full(shape, padding, np.int64), "position_ids": np.zeros(shape, np.int64),
            "document_ids": np.full(shape, -1, np.int64)}
    for name, values in (("input_ids", np.concatenate(texts)), ("position_ids", position),
                         ("document_ids", np.repeat(np.arange(len(texts)), sizes))):
        rows[name].reshape(-1)[at] = values
    return {**rows, "document_bounds": bounds_of(rows["document_ids"])}, at


def framed(text: np.ndarray, special: dict[str, int], length: int) -> np.ndarray:
    """int64: a text between its special tokens, cut off where it would be longer than `length`."""
    return np.concatenate([[special["cls"]], text[:length - 2], [special["sep"]]]).astype(np.int64)


def bounds_of(document: np.ndarray) -> np.ndarray:
    """int32 (documents + 1,): where documents begin in the rows laid end to end, padding being one too; and the end."""
    begins = np.ones(document.shape, dtype=bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return np.append(np.flatnonzero(begins), begins.size).astype(np.int32)


def slices(count: int, process: int, processes: int, micro_batch: int | None) -> list[np.ndarray]:
    """Places of the global batch that each micro-batch of one process takes. Together the processes take each once."""
    own = np.arange(process, count, processes)
    return np.split(own, range(micro_batch, len(own), micro_batch)) if micro_batch else [own]
