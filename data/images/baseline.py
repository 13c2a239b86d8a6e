"""Features of the linear baseline: the pixels of small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.images.store import PixelShards
    from data.images.task import ImageStore
    from data.tasks.splits import Example


BASELINE_SIZE = 16  # pixels of a side


def shrink_images(places: list[tuple[PixelShards, int]], size: int) -> np.ndarray:
    """Return the pixels of images scaled to `size`, from 0 to 1, float32 (images, size * size * channels)."""
    from PIL import Image

    rows = []
    for shards, index in places:
        pixels = shards.pixels[index]
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        rows.append(np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32).ravel())
    return np.stack(rows) / 255


class PixelFeatures:
    """Standardized pixels of images scaled to `size`, by the mean and standard deviation of the training images."""

    def __init__(self, store: ImageStore, size: int):
        self.store, self.size = store, size

    def shrink(self, examples: list[Example]) -> np.ndarray:
        """Return the pixels of small images, float32 (examples, size * size * channels)."""
        return shrink_images(self.store.find(examples), self.size)

    def fit(self, examples: list[Example]) -> Callable[[list[Example]], np.ndarray]:
        """Return the function from examples to features."""
        train = self.shrink(examples)
        mean, std = train.mean(0), train.std(0).clip(1e-3)
        width = train.shape[1] ** 0.5  # so that C means the same for any size
        return lambda rows: (self.shrink(rows) - mean) / (std * width)
