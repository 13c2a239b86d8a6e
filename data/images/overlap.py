"""Images that occur, or nearly occur, among others."""

from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np

from data.images import hashes
from data.images.store import PixelShards
from data.images.task import ImageStore
from data.tasks.splits import Example

NONE, NEAR, EXACT = 0, 1, 2
BLOCK_PAIRS = 2**18  # compared at once


def match_images(store: ImageStore, examples: list[Example], others: list[Example]) -> np.ndarray:
    """Return for each example whether its image is among the others (EXACT), or a copy of one (NEAR), uint8."""
    keys = {example.texts[0] for example in others}

    def read(indices: np.ndarray) -> np.ndarray:
        return store.read_pixels([others[index] for index in indices])

    return match_pixels(store, examples, keys, store.read_hashes(others), read)


def match_shards(store: ImageStore, examples: list[Example], shards: PixelShards) -> np.ndarray:
    """Return the same for the images of a corpus."""
    return match_pixels(store, examples, shards.index, shards.hashes, shards.pixels.__getitem__)


def match_pixels(
    store: ImageStore,
    examples: list[Example],
    keys: Container[str],
    others: np.ndarray,
    read: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return matches as `match_images` does. keys, others, read: keys, hashes and function to pixels of the others."""
    matches = np.array([EXACT if example.texts[0] in keys else NONE for example in examples], np.uint8)
    rest = np.flatnonzero(matches == NONE)
    if not len(rest) or not len(others):
        return matches
    pairs = hashes.find_close(store.read_hashes([examples[index] for index in rest]), others)
    if len(pairs):
        (firsts, ones), (seconds, twos) = (np.unique(column, return_inverse=True) for column in pairs.T)
        pixels = store.read_pixels([examples[index] for index in rest[firsts]]), read(seconds)
        shrunk = [np.stack([hashes.shrink(each) for each in part]) for part in pixels]
        for block in range(0, len(pairs), BLOCK_PAIRS):
            ones_here, twos_here = ones[block : block + BLOCK_PAIRS], twos[block : block + BLOCK_PAIRS]
            copies = ones_here[hashes.are_copies(shrunk[0][ones_here], shrunk[1][twos_here])]
            matches[rest[firsts[copies]]] = NEAR
    return matches


def count_overlaps(matches: np.ndarray) -> dict[str, int]:
    """Return {"num_rows", "exact", "near"}."""
    return {"num_rows": len(matches), "exact": int((matches == EXACT).sum()), "near": int((matches == NEAR).sum())}
