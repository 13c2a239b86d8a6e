"""Hashes of images: of all pixels, and a difference hash of 64 bits that scaled and compressed copies share.

The difference hash (Krawetz 2013) has a bit for each pair of neighbors in a row of 9 x 8 gray pixels: whether the right
one is brighter. Candidates for copies have hashes with few different bits; they are copies if their pixels agree too.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BITS = 8  # different bits of a copy's hash
MAX_DIFFERENCE, MIN_CONTRAST = (0.12, 10.0)  # of gray pixels, relative to their standard deviation, at least this
COMPARED_SIZE = 8
BLOCK_PAIRS, BLOCK_COPIES = 2**22, 2**16  # pairs of which the hashes, and the pixels, are compared at once


def pixel_hash(image: Image) -> str:
    """Return 32 hexadecimal digits that identify the decoded pixels of an upright image."""
    found = hashlib.sha256(f"{image.mode} {image.size}".encode())
    found.update(np.ascontiguousarray(image))
    return found.hexdigest()[:32]


def difference_hash(image: Image) -> int:
    """Return the difference hash, 64 bits."""
    from PIL import Image

    # Without rounding to whole shades, which would make the bits of a smooth sky random.
    pixels = np.asarray(image.convert("L").convert("F").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes(), "big")


def find_close(hashes: np.ndarray, others: np.ndarray | None = None, max_bits: int = MAX_BITS) -> np.ndarray:
    """Return the pairs with at most `max_bits` different bits, int64 (pairs, 2) of indices, sorted.

    hashes, others: uint64; others: None for pairs within `hashes`, with the smaller index first. Two hashes with at
    most b different bits share one of b + 1 parts (Manku et al. 2007).
    """
    within, others = others is None, hashes if others is None else others
    bounds = np.linspace(0, 64, max_bits + 2).astype(int).tolist()
    masks = [np.uint64(((1 << (high - low)) - 1) << low) for low, high in pairwise(bounds)]
    found = [np.zeros((0, 2), np.int64)]
    for number, mask in enumerate(masks):
        order = np.argsort(others & mask, kind="stable")
        parts = (others & mask)[order]
        first, last = (np.searchsorted(parts, hashes & mask, side=side) for side in ("left", "right"))
        counts = last - first
        ends = np.cumsum(counts)
        start = 0
        while start < len(hashes):  # in blocks of bounded memory
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + BLOCK_PAIRS, side="right")))
            times = counts[start:stop]
            rows = np.repeat(np.arange(start, stop), times)
            inside = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
            columns = order[np.repeat(first[start:stop], times) + inside]
            different = hashes[rows] ^ others[columns]
            is_new = np.bitwise_count(different) <= max_bits
            is_new &= rows < columns if within else True
            pairs, different = np.stack([rows[is_new], columns[is_new]], 1), different[is_new]
            for earlier in masks[:number]:  # a pair is found by the first of the parts that it shares
                is_new = different & earlier != 0
                pairs, different = pairs[is_new], different[is_new]
            found.append(pairs)
            start = stop
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])]


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return gray pixels of mean 0, float32 (COMPARED_SIZE ** 2,), of uint8 pixels (size, size, channels)."""
    from PIL import Image

    gray = Image.fromarray(pixels.mean(-1).astype(np.uint8))
    values = np.asarray(gray.resize((COMPARED_SIZE, COMPARED_SIZE), Image.Resampling.BOX), np.float32).ravel()
    return values - values.mean()


def are_copies(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which images, from `shrink`, differ from the others by little of their contrast, bool (images,)."""
    contrast = np.maximum(ones.std(-1) * others.std(-1), MIN_CONTRAST**2)
    return np.square(ones - others).mean(-1) <= MAX_DIFFERENCE**2 * contrast


def find_copies(
    hashes: np.ndarray,
    pixels: np.ndarray,
    others: np.ndarray | None = None,
    other_pixels: np.ndarray | None = None,
    max_bits: int = MAX_BITS,
) -> np.ndarray:
    """Return the pairs of images that are copies of each other, int64 (pairs, 2), as `find_close` returns them.

    pixels, other_pixels: uint8 (images, size, size, channels).
    """
    pairs = find_close(hashes, others, max_bits)
    other_pixels = pixels if other_pixels is None else other_pixels
    keep = [np.zeros(0, dtype=bool)]
    for start in range(0, len(pairs), BLOCK_COPIES):
        shrunk = []
        for column, images in zip(pairs[start : start + BLOCK_COPIES].T, (pixels, other_pixels), strict=True):
            indices, at = np.unique(column, return_inverse=True)
            shrunk.append(np.stack([shrink(images[index]) for index in indices])[at])
        keep.append(are_copies(*shrunk))
    return pairs[np.concatenate(keep)]


def find_duplicates(
    hashes: np.ndarray, pixels: np.ndarray, is_kept: np.ndarray, max_bits: int = MAX_BITS
) -> np.ndarray:
    """Return which images are copies of an earlier one that is kept, bool (images,), among those of `is_kept`."""
    is_duplicate = np.zeros(len(hashes), dtype=bool)
    for first, second in find_copies(hashes, pixels, max_bits=max_bits).tolist():
        is_duplicate[second] |= is_kept[first] and is_kept[second] and not is_duplicate[first]
    return is_duplicate
