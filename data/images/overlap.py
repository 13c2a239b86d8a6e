"""Images that occur, or nearly occur, among others."""

from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np

from data.images import hashes
from data.images.store import PixelShards
from data.images.task import ImageStore
from data.tasks.splits import Example

NONE, NEAR, EXACT = 0, 1, 2


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
    matches = np.zeros(len(examples), np.uint8)
    if examples and len(others):
        pairs = hashes.find_close(store.read_hashes(examples), others)
        firsts, seconds = np.unique(pairs[:, 0]), np.unique(pairs[:, 1])
        if len(pairs):
            pixels = store.read_pixels([examples[index] for index in firsts]), read(seconds)
            shrunk = [[hashes.shrink(each) for each in part] for part in pixels]
            for first, second in zip(
                np.searchsorted(firsts, pairs[:, 0]), np.searchsorted(seconds, pairs[:, 1]), strict=True
            ):
                if hashes.is_copy(shrunk[0][first], shrunk[1][second]):
                    matches[firsts[first]] = NEAR
    matches[[example.texts[0] in keys for example in examples]] = EXACT
    return matches


def count_overlaps(matches: np.ndarray) -> dict[str, int]:
    """Return {"num_rows", "exact", "near"}."""
    return {"num_rows": len(matches), "exact": int((matches == EXACT).sum()), "near": int((matches == NEAR).sum())}
