"""Data sets of labeled images for a network: pixels from memory-mapped shards, normalized, and augmented by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.images.processor import Processor, load_image_processor, normalize
from data.images.views import Views, apply_views, draw_view_params
from engine.errors import DataError
from engine.training.step import MicroBatch

if TYPE_CHECKING:
    from PIL.Image import Image

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


class ProcessedImages:
    """Images as an image processor returns them. problems: for each why it cannot be read, or an empty string."""

    def __init__(self, pixel_values: list[Tensor], problems: list[str]):
        self.pixel_values, self.problems = pixel_values, problems
        self.lengths = np.ones(len(pixel_values), dtype=np.int64)

    def get_inputs(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return {"pixel_values": float32 (images, channels, height, width)}."""
        values = torch.stack([self.pixel_values[index] for index in indices])
        return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}


class ImageReader:
    """Decodes images and applies the image processor in a folder, one by one, so that no large image stays in memory.

    Raises DataError if there is none, and if it makes images of different sizes.
    """

    def __init__(self, folder: Path):
        from PIL import Image

        self.folder, self.processor = folder, load_image_processor(folder)
        mean = getattr(self.processor, "image_mean", None)
        self.mode = "L" if mean is not None and len(mean) == 1 else "RGB"
        self.filler = self.process(Image.new("RGB", (64, 64)))  # the network reads it for a broken image

    def process(self, image: Image) -> Tensor:
        """Return the pixels that the network reads, float32 (channels, height, width)."""
        return self.processor(image.convert(self.mode), return_tensors="pt")["pixel_values"][0]

    def __call__(self, loads: list[Callable[[], Image]]) -> ProcessedImages:
        """Return the images that these functions decode."""
        pixel_values, problems = [], []
        for load in loads:
            try:
                values, problem = self.process(load()), ""
            except DataError as error:
                values, problem = self.filler, str(error)
            if values.shape != self.filler.shape:
                raise DataError(f"{self.folder}: its image processor makes images of different sizes")
            pixel_values.append(values)
            problems.append(problem)
        return ProcessedImages(pixel_values, problems)


def augment_images(
    pixels: Tensor, generators: list[np.random.Generator], processor: Processor, settings: Views
) -> Tensor:
    """Return one random view of each image, float32 (images, channels, size, size)."""
    params = torch.from_numpy(draw_view_params(generators, 1, settings))
    return apply_views(pixels, params, processor.mean, processor.std)
