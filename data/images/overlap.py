"""Images that occur, or nearly occur, among others."""

from __future__ import annotations

import numpy as np

from data.images import hashes
from data.images.task import ImageStore
from data.tasks.splits import Example

NONE, NEAR, EXACT = 0, 1, 2


def match_images(store: ImageStore, examples: list[Example], others: list[Example]) -> np.ndarray:
    """Return for each example whether its image is among the others (EXACT), or a copy of one (NEAR), uint8."""
    matches, keys = np.zeros(len(examples), np.uint8), {example.texts[0] for example in others}
    if examples and others:
        pairs = hashes.find_close(store.read_hashes(examples), store.read_hashes(others))
        firsts, seconds = np.unique(pairs[:, 0]), np.unique(pairs[:, 1])
        pixels = [
            store.read_pixels([rows[index] for index in indices]) if len(indices) else np.zeros(0)
            for rows, indices in ((examples, firsts), (others, seconds))
        ]
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
