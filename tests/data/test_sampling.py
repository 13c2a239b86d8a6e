"""Which rows make up a step, and the random numbers of each."""

import itertools

import numpy as np
import pytest
import torch

from data.sampling import feistel_permutation, length_grouped_batch, row_generator, shard_batch, shuffled_batch
from engine.training.step import seed_step


def whole(size: int, key: tuple[int, int]) -> np.ndarray:
    return feistel_permutation(np.arange(size), size, key)


@pytest.mark.parametrize("size", [*range(1, 71), 1_023, 1_024, 1_025, 100_003])
def test_permuted_is_a_bijection(size):
    assert np.array_equal(np.sort(whole(size, (3, size))), np.arange(size))


def test_permuted_of_a_part_is_part_of_the_whole():
    some = np.array([999, 0, 17, 500])
    assert np.array_equal(feistel_permutation(some, 1_000, (1, 2)), whole(1_000, (1, 2))[some])


def test_permuted_holds_beyond_four_billion():
    size = 2**40 + 7
    index = np.arange(size - 1_000, size)
    found = feistel_permutation(index, size, (0, 0))
    assert len(set(found.tolist())) == 1_000 and found.min() >= 0 and found.max() < size


def test_permuted_differs_by_seed_and_by_epoch():
    for other in ((1, 0), (0, 1), (1, 1)):
        # Two unrelated permutations agree at one place on average, whatever their size.
        assert (whole(1_000, (0, 0)) == whole(1_000, other)).sum() < 10


@pytest.mark.parametrize("size", [16, 100, 1_000])
def test_permuted_looks_drawn_at_random(size):
    every = np.stack([whole(size, (seed, 0)) for seed in range(400)])
    # One fixed point and two neighbours that stay neighbours are expected, with variances near 1 and 2.
    assert abs((every == np.arange(size)).sum(1).mean() - 1) < 0.25
    assert abs((np.abs(np.diff(every)) == 1).sum(1).mean() - 2 * (size - 1) / size) < 0.35
    # Each place takes every value alike: the mean of 400 uniform draws is within five standard errors of the middle.
    assert np.abs(every.mean(0) - (size - 1) / 2).max() < 5 * size / np.sqrt(12 * 400)


@pytest.mark.parametrize("rows, batch_size", [(12, 4), (10, 4), (3, 8), (7, 7), (1, 5)])
def test_order_sees_every_row_once_an_epoch(rows, batch_size):
    seen = np.concatenate([shuffled_batch(step, batch_size, rows, seed=5) for step in range(3 * rows)])
    epochs = seen.reshape(-1, rows)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(rows), (len(epochs), 1)))
    for epoch, found in enumerate(epochs):
        assert np.array_equal(found, whole(rows, (5, epoch)))


def test_order_needs_no_history():
    forward = [shuffled_batch(step, 6, 40, seed=1) for step in range(50)]
    for step in reversed(range(50)):
        assert np.array_equal(shuffled_batch(step, 6, 40, seed=1), forward[step])
    assert not np.array_equal(shuffled_batch(3, 6, 40, seed=2), forward[3])


@pytest.mark.parametrize("together", [1, 4, 10])
def test_by_length_deals_out_the_same_rows_with_less_padding(together):
    lengths = np.random.default_rng(0).integers(1, 200, size=333)
    wasted = {"order": 0, "by_length": 0}
    for first in range(0, 40, together):
        steps = range(first, first + together)
        plain = [shuffled_batch(step, 8, len(lengths), 3) for step in steps]
        dealt = [length_grouped_batch(step, 8, lengths, 3, together) for step in steps]
        assert np.array_equal(np.sort(np.concatenate(plain)), np.sort(np.concatenate(dealt)))
        for name, batches in (("order", plain), ("by_length", dealt)):
            wasted[name] += sum((lengths[batch].max() - lengths[batch]).sum() for batch in batches)
    assert wasted["by_length"] == wasted["order"] if together == 1 else wasted["by_length"] < wasted["order"] / 2


def test_by_length_does_not_go_from_short_to_long():
    lengths = np.arange(640)
    longest = np.array([lengths[length_grouped_batch(step, 8, lengths, 0, 10)].max() for step in range(80)])
    within = np.argsort(longest.reshape(8, 10), axis=1)
    assert len({tuple(turn) for turn in within.tolist()}) > 1 and not (np.diff(within, axis=1) == 1).all()


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 100])
def test_slices_partition_the_batch(processes, micro_batch):
    for count in (processes, 7, 8, 30):
        parts = [shard_batch(count, process, processes, micro_batch) for process in range(processes)]
        places = np.concatenate([places for own in parts for places in own])
        assert np.array_equal(np.sort(places), np.arange(count))
        sizes = [sum(map(len, own)) for own in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(0 < len(places) <= (micro_batch or count) for own in parts for places in own)


def test_generator_follows_the_place_in_the_global_batch_alone():
    alone = {
        place: row_generator(9, 4, place).integers(0, 2**62, 5).tolist()
        for places in shard_batch(11, 0, 1, None)
        for place in places.tolist()
    }
    for processes in (2, 3):
        shared = {
            place: row_generator(9, 4, place).integers(0, 2**62, 5).tolist()
            for process in range(processes)
            for places in shard_batch(11, process, processes, 2)
            for place in places.tolist()
        }
        assert shared == alone


def test_generator_differs_by_seed_step_and_row():
    streams = [
        row_generator(seed, step, row).integers(0, 2**62, 1_000)
        for seed in (0, 1)
        for step in (0, 1, 2)
        for row in (0, 1, 2)
    ]
    # Whole streams share no number, so none is another one shifted.
    assert len(set(np.concatenate(streams).tolist())) == 18_000


def test_dropout_differs_by_seed_step_micro_batch_and_process():
    seen = set()
    for place in itertools.product(range(4), repeat=4):
        seed_step(*place)
        seen.add(torch.rand(4).numpy().tobytes())
    assert len(seen) == 4**4
