"""Random views of the pictures of a corpus, as micro-batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from data.images.shards import PixelShards
from data.images.views import Views, draw_view_params
from data.sampling import draw_noise
from engine.training.step import MicroBatch


class ImageViewDataset:
    """Raw pixels with the parameters of random views, which the encoder computes on its device."""

    modality: ClassVar[str] = "images"
    views: ClassVar[int] = 2
    """Views of a picture."""

    def __init__(self, shards: PixelShards, settings: Views):
        self.shards, self.settings = shards, settings

    def __len__(self) -> int:
        return len(self.shards)

    def warning(self) -> str:
        """Return nothing: any corpus is suitable."""
        return ""

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make `pixels`, uint8 (rows, size, size, channels), `view_params`, float32 (rows, views, k), and `group_ids`.

        `group_ids`, int64 (rows, views), is the picture's index.
        """
        inputs = {
            "pixels": self.shards.pixels[indices],
            "view_params": draw_view_params(generators, self.views, self.settings),
            "group_ids": np.repeat(np.array(indices, dtype=np.int64)[:, None], self.views, 1),
        }
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, len(indices))


class WholeImageDataset(ImageViewDataset):
    """One view of each picture, all of it, for objectives that make pictures; it is at most mirrored.

    noise_dim: standard normal numbers of a row, drawn by its generator.
    """

    views: ClassVar[int] = 1

    def __init__(self, shards: PixelShards, settings: Views, noise_dim: int = 0):
        super().__init__(shards, whole_views(settings))
        self.noise_dim = noise_dim

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make `pixels` and `view_params` of one view, and `noise`, float32 (rows, noise_dim), if there is any."""
        inputs, num_images = super().collate(indices, generators)
        del inputs["group_ids"]
        if self.noise_dim:
            inputs["noise"] = torch.from_numpy(draw_noise(generators, self.noise_dim))
        return MicroBatch(inputs, num_images)


def whole_views(settings: Views) -> Views:
    """Return settings of views that show all of a picture in its own colors, mirrored as in `settings`."""
    return settings.model_copy(
        update={"min_area": 1.0, "max_area": 1.0, "aspect_ratio": 1.0, "color_prob": 0.0, "gray_prob": 0.0}
    )
