"""Which rows form a batch: pure functions of (seed, step, process), so that resuming only needs the step."""

from collections.abc import Sequence

import numpy as np

FEISTEL_ROUNDS = 6
MAX_REFERENCE_INPUTS = 16  # inputs with reference outputs


def feistel_permutation(indices: np.ndarray, size: int, key: tuple[int, int]) -> np.ndarray:
    """Permute [0, size) by a key, at `indices`: a Feistel network with cycle walking (Black and Rogaway 2002)."""
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    generator = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    rounds = generator.integers(1, 2**63, size=(FEISTEL_ROUNDS, 2), dtype=np.uint64) | np.uint64(1)
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
    """Return the rows of the global batch of `step`, int64 (batch_size,); each epoch visits every row once."""
    epoch, position = np.divmod(step * batch_size + np.arange(batch_size), num_rows)
    rows = np.empty(batch_size, dtype=np.int64)
    for number in range(int(epoch[0]), int(epoch[-1]) + 1):
        in_epoch = epoch == number
        rows[in_epoch] = feistel_permutation(position[in_epoch], num_rows, (seed, number))
    return rows


def length_grouped_batch(
    step: int, batch_size: int, lengths: np.ndarray, seed: int, batches_per_group: int
) -> np.ndarray:
    """Return a batch like `shuffled_batch`, sorted by length within `batches_per_group` batches to reduce padding."""
    first = step - step % batches_per_group
    steps = range(first, first + batches_per_group)
    rows = np.concatenate([shuffled_batch(each, batch_size, len(lengths), seed) for each in steps])
    rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(batches_per_group, batch_size)
    order = np.random.Generator(np.random.Philox(key=[seed, 2**32 + first])).permutation(batches_per_group)
    return rows[order[step - first]]


def class_balanced_batch(
    step: int, batch_size: int, labels: np.ndarray, seed: int, samples_per_class: int = 1
) -> np.ndarray:
    """Return a batch, int64 (batch_size,), with all classes equally often, in turns of `samples_per_class` rows.

    labels: int64 (rows,), class ids. Within a class, every row is used once before any is repeated.
    """
    classes, class_index = np.unique(labels, return_inverse=True)
    turn, offset = np.divmod(step * batch_size + np.arange(batch_size), samples_per_class)
    cycle, chosen = np.divmod(turn, len(classes))
    for number in np.unique(cycle):  # each cycle visits the classes in a different order
        in_cycle = cycle == number
        chosen[in_cycle] = feistel_permutation(chosen[in_cycle], len(classes), (seed, 2**34 + int(number)))
    draw = cycle * samples_per_class + offset
    batch = np.empty(batch_size, dtype=np.int64)
    for index in np.unique(chosen):
        rows, is_class = np.flatnonzero(class_index == index), chosen == index
        batch[is_class] = [
            rows[feistel_permutation(np.array([position]), len(rows), (seed + int(index) * 2**32, int(epoch)))[0]]
            for epoch, position in np.stack(np.divmod(draw[is_class], len(rows)), 1)
        ]
    return batch


def row_generator(seed: int, step: int, row: int) -> np.random.Generator:
    """Return the random generator of a row of a step's global batch (Philox; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**33], counter=[0, 0, step, row]))


def draw_noise(generators: Sequence[np.random.Generator], *shape: int) -> np.ndarray:
    """Draw standard normal numbers of each row from its generator, float32 (rows, *shape)."""
    return np.stack([generator.standard_normal(shape, np.float32) for generator in generators])


def shard_batch(
    batch_size: int, process_index: int, num_processes: int, micro_batch_size: int | None
) -> list[np.ndarray]:
    """Return the indices into the global batch of each of a process's micro-batches."""
    indices = np.arange(process_index, batch_size, num_processes)
    return np.split(indices, range(micro_batch_size, len(indices), micro_batch_size)) if micro_batch_size else [indices]


def take_evenly(items: Sequence, max_items: int = MAX_REFERENCE_INPUTS) -> list:
    """Return at most `max_items` evenly spaced items."""
    count = min(max_items, len(items))
    return [items[index * len(items) // count] for index in range(count)]
