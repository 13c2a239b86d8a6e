"""Which rows form a batch, and the random numbers of each row."""

import itertools

import numpy as np
import pytest
import torch

from data.sampling import (
    draw_noise,
    feistel_permutation,
    length_grouped_batch,
    row_generator,
    shard_batch,
    shuffled_batch,
)
from engine.training.step import seed_step


def permutation(size: int, key: tuple[int, int]) -> np.ndarray:
    return feistel_permutation(np.arange(size), size, key)


@pytest.mark.parametrize("size", [*range(1, 71), 1_023, 1_024, 1_025, 100_003])
def test_feistel_permutation_is_a_bijection(size):
    assert np.array_equal(np.sort(permutation(size, (3, size))), np.arange(size))


def test_feistel_permutation_maps_each_index_independently():
    indices = np.array([999, 0, 17, 500])
    assert np.array_equal(feistel_permutation(indices, 1_000, (1, 2)), permutation(1_000, (1, 2))[indices])


def test_feistel_permutation_works_beyond_four_billion():
    size = 2**40 + 7
    permuted = feistel_permutation(np.arange(size - 1_000, size), size, (0, 0))
    assert len(set(permuted.tolist())) == 1_000 and permuted.min() >= 0 and permuted.max() < size


def test_feistel_permutation_differs_by_seed_and_epoch():
    for other in ((1, 0), (0, 1), (1, 1)):
        # Two unrelated permutations agree at one index on average, whatever their size.
        assert (permutation(1_000, (0, 0)) == permutation(1_000, other)).sum() < 10


@pytest.mark.parametrize("size", [16, 100, 1_000])
def test_feistel_permutation_looks_random(size):
    permutations = np.stack([permutation(size, (seed, 0)) for seed in range(400)])
    # One fixed point and two neighbors that stay neighbors are expected, with variances near 1 and 2.
    assert abs((permutations == np.arange(size)).sum(1).mean() - 1) < 0.25
    assert abs((np.abs(np.diff(permutations)) == 1).sum(1).mean() - 2 * (size - 1) / size) < 0.35
    # Values are uniform at each index: the mean of 400 is within five standard errors of the middle.
    assert np.abs(permutations.mean(0) - (size - 1) / 2).max() < 5 * size / np.sqrt(12 * 400)


@pytest.mark.parametrize("rows, batch_size", [(12, 4), (10, 4), (3, 8), (7, 7), (1, 5)])
def test_shuffled_batches_visit_every_row_once_per_epoch(rows, batch_size):
    seen = np.concatenate([shuffled_batch(step, batch_size, rows, seed=5) for step in range(3 * rows)])
    epochs = seen.reshape(-1, rows)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(rows), (len(epochs), 1)))
    for epoch, order in enumerate(epochs):
        assert np.array_equal(order, permutation(rows, (5, epoch)))


def test_shuffled_batches_depend_only_on_seed_and_step():
    forward = [shuffled_batch(step, 6, 40, seed=1) for step in range(50)]
    for step in reversed(range(50)):
        assert np.array_equal(shuffled_batch(step, 6, 40, seed=1), forward[step])
    assert not np.array_equal(shuffled_batch(3, 6, 40, seed=2), forward[3])


@pytest.mark.parametrize("batches_per_group", [1, 4, 10])
def test_length_grouped_batches_have_the_same_rows_with_less_padding(batches_per_group):
    lengths = np.random.default_rng(0).integers(1, 200, size=333)
    padding = {"shuffled": 0, "grouped": 0}
    for first in range(0, 40, batches_per_group):
        steps = range(first, first + batches_per_group)
        shuffled = [shuffled_batch(step, 8, len(lengths), 3) for step in steps]
        grouped = [length_grouped_batch(step, 8, lengths, 3, batches_per_group) for step in steps]
        assert np.array_equal(np.sort(np.concatenate(shuffled)), np.sort(np.concatenate(grouped)))
        for name, batches in (("shuffled", shuffled), ("grouped", grouped)):
            padding[name] += sum((lengths[batch].max() - lengths[batch]).sum() for batch in batches)
    if batches_per_group == 1:
        assert padding["grouped"] == padding["shuffled"]
    else:
        assert padding["grouped"] < padding["shuffled"] / 2


def test_length_grouped_batches_are_not_ordered_by_length():
    lengths = np.arange(640)
    longest = np.array([lengths[length_grouped_batch(step, 8, lengths, 0, 10)].max() for step in range(80)])
    orders = np.argsort(longest.reshape(8, 10), axis=1)
    assert len({tuple(order) for order in orders.tolist()}) > 1 and not (np.diff(orders, axis=1) == 1).all()


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 100])
def test_shard_batch_partitions_the_batch(processes, micro_batch):
    for batch_size in (processes, 7, 8, 30):
        shards = [shard_batch(batch_size, process, processes, micro_batch) for process in range(processes)]
        micro_batches = [indices for shard in shards for indices in shard]
        assert np.array_equal(np.sort(np.concatenate(micro_batches)), np.arange(batch_size))
        sizes = [sum(map(len, shard)) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        assert all(0 < len(indices) <= (micro_batch or batch_size) for indices in micro_batches)


def test_row_generators_do_not_depend_on_the_number_of_processes():
    def draw(processes: int, micro_batch: int | None) -> dict[int, list[int]]:
        return {
            row: row_generator(9, 4, row).integers(0, 2**62, 5).tolist()
            for process in range(processes)
            for indices in shard_batch(11, process, processes, micro_batch)
            for row in indices.tolist()
        }

    assert draw(2, 2) == draw(3, 2) == draw(1, None)


def test_row_generators_differ_by_seed_step_and_row():
    keys = itertools.product((0, 1), (0, 1, 2), (0, 1, 2))
    streams = [row_generator(seed, step, row).integers(0, 2**62, 1_000) for seed, step, row in keys]
    # The streams share no number, so none is a shifted copy of another.
    assert len(set(np.concatenate(streams).tolist())) == 18_000


def test_dropout_differs_by_seed_step_micro_batch_and_process():
    seen = set()
    for key in itertools.product(range(4), repeat=4):
        seed_step(*key)
        seen.add(torch.rand(4).numpy().tobytes())
    assert len(seen) == 4**4


def test_noise_is_a_function_of_the_row():
    noise = draw_noise([row_generator(0, 0, row) for row in range(3)], 5)
    assert noise.shape == (3, 5) and noise.dtype == np.float32
    assert np.array_equal(noise[1:2], draw_noise([row_generator(0, 0, 1)], 5))
