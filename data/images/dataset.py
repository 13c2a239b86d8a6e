"""Data sets of labeled images for a network: pixels from memory-mapped shards, normalized, and augmented by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.images.processor import Processor, normalize
from data.images.views import Views, apply_views, draw_view_params
from engine.training.step import MicroBatch

if TYPE_CHECKING:
    from data.images.store import PixelShards

Places = list[tuple["PixelShards", int]]


class ImageDataset:
    """Images by their place in pixel shards, with their targets if there are any; a length is one image."""

    def __init__(self, places: Places, processor: Processor, labels: np.ndarray | None = None):
        self.places, self.processor, self.labels = places, processor, labels
        self.lengths = np.ones(len(places), dtype=np.int64)

    def read_pixels(self, indices: np.ndarray) -> Tensor:
        """Return pixels, uint8 (images, size, size, channels)."""
        pixels = [self.places[index][0].pixels[self.places[index][1]] for index in indices]
        return torch.from_numpy(np.stack(pixels))

    def get_inputs(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return {"pixel_values": float32 (images, channels, size, size)}."""
        values = normalize(self.read_pixels(indices), self.processor.mean, self.processor.std)
        return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}

    def get_batch(
        self,
        indices: np.ndarray,
        augment: Callable[[Tensor, list[np.random.Generator], Processor], Tensor] | None = None,
        generators: list[np.random.Generator] | None = None,
    ) -> MicroBatch:
        """Return the inputs and labels of a micro-batch. generators: one per row, for the augmentation."""
        if augment is None:
            inputs = self.get_inputs(indices)
        else:
            values = augment(self.read_pixels(indices), generators, self.processor)
            inputs = {"pixel_values": values.contiguous(memory_format=torch.channels_last)}
        return MicroBatch({**inputs, "labels": torch.from_numpy(self.labels[indices])}, len(indices))


def augment_images(
    pixels: Tensor, generators: list[np.random.Generator], processor: Processor, settings: Views
) -> Tensor:
    """Return one random view of each image, float32 (images, channels, size, size)."""
    params = torch.from_numpy(draw_view_params(generators, 1, settings))
    return apply_views(pixels, params, processor.mean, processor.std)
