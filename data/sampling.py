"""TODO."""

from __future__ import annotations

import numpy as np

FEISTEL_ROUNDS = 6


def feistel_permutation(indices: np.ndarray, size: int, key: tuple[int, int]) -> np.ndarray:
    """`indices` (integers in [0, size)) under a keyed permutation of [0, size), without ever holding the permutation.

    A Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside (Black and
    Rogaway 2002). Any step of any corpus is found at once.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    rounds = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).integers(
        1, 2**63, size=(FEISTEL_ROUNDS, 2), dtype=np.uint64
    ) | np.uint64(1)
    shift = np.uint64(half)
    result, outside = indices.astype(np.uint64), np.ones(len(indices), dtype=bool)
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


def shuffled_batch(step: int, batch_size: int, num_rows: int, seed: int) -> np.ndarray:
    """int64 (batch_size,): the rows of the global batch of `step`. Every row is seen once before any is seen again."""
    place = step * batch_size + np.arange(batch_size)
    epoch = place // num_rows
    chosen = np.empty(batch_size, dtype=np.int64)
    for number in range(int(epoch[0]), int(epoch[-1]) + 1):
        here = epoch == number
        chosen[here] = feistel_permutation(place[here] % num_rows, num_rows, (seed, number))
    return chosen


def length_grouped_batch(
    step: int, batch_size: int, lengths: np.ndarray, seed: int, batches_per_group: int
) -> np.ndarray:
    """As `shuffled_batch`, but the rows of `batches_per_group` successive batches are dealt out by length, so that little is padded."""
    first = step - step % batches_per_group
    chosen = np.concatenate(
        [shuffled_batch(first + ahead, batch_size, len(lengths), seed) for ahead in range(batches_per_group)]
    )
    chosen = chosen[np.argsort(lengths[chosen], kind="stable")].reshape(batches_per_group, batch_size)
    turn = np.random.Generator(np.random.Philox(key=[seed, 2**32 + first])).permutation(batches_per_group)
    return chosen[turn[step - first]]


def class_balanced_batch(
    step: int, batch_size: int, labels: np.ndarray, seed: int, samples_per_class: int = 1
) -> np.ndarray:
    """int64 (batch_size,): rows so that all classes come equally often, in turn, `samples_per_class` rows of one at a time.

    labels: int64 (rows,), which class each row is of. Within a class every row is seen once before any is seen again.
    """
    present, number = np.unique(labels, return_inverse=True)
    place = step * batch_size + np.arange(batch_size)
    turn = place // samples_per_class
    chosen = np.empty(batch_size, dtype=np.int64)
    whose = turn % len(present)
    for cycle in np.unique(turn // len(present)):
        # Each cycle goes through the classes in an order of its own.
        here = turn // len(present) == cycle
        whose[here] = feistel_permutation(whose[here], len(present), (seed, 2**34 + int(cycle)))
    drawn = turn // len(present) * samples_per_class + place % samples_per_class
    for name in np.unique(whose):
        rows, here = np.flatnonzero(number == name), whose == name
        epoch, within = np.divmod(drawn[here], len(rows))
        chosen[here] = [
            rows[feistel_permutation(np.array([one]), len(rows), (seed + int(name) * 2**32, int(turned)))[0]]
            for one, turned in zip(within, epoch)
        ]
    return chosen


def row_generator(seed: int, step: int, row: int) -> np.random.Generator:
    """The random numbers of the `row`-th row of a step's global batch (Philox; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**33], counter=[0, 0, step, row]))


def shard_batch(
    batch_size: int, process_index: int, num_processes: int, micro_batch_size: int | None
) -> list[np.ndarray]:
    """Places of the global batch that each micro-batch of one process takes. Together the processes take each once."""
    own = np.arange(process_index, batch_size, num_processes)
    return np.split(own, range(micro_batch_size, len(own), micro_batch_size)) if micro_batch_size else [own]
