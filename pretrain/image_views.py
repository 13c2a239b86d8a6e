"""Random views of the pictures of a corpus, as micro-batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from data.images.shards import PixelShards
from data.images.views import Views, draw_view_params
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
