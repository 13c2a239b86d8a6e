"""Vectors of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.encoders import hash_weights
from data.images.dataset import ImageDataset, Places
from data.images.processor import read_processor
from data.modalities.images import MODALITY
from engine.errors import DataError, first_line
from engine.models import embed
from engine.training.distributed import make_accelerator
from explore.vectors import to_unit


class ImageEncoder:
    """The encoder in a folder, loaded when the first image is embedded. Raises DataError if it cannot be."""

    def __init__(self, folder: Path):
        self.folder, self.processor = folder, read_processor(folder)
        self.key = [hash_weights(folder), [*self.processor.mean, *self.processor.std]]
        self.embedder = None

    def embed(self, places: Places, title: str | None = None) -> np.ndarray:
        """Return the unit vectors of images, float32 (images, width). title: of the progress bar, if there is one."""
        accelerator = make_accelerator("native")
        if self.embedder is None:
            self.embedder = MODALITY.load_embedder(self.folder).to(accelerator.device)
        dataset = ImageDataset(places, self.processor)
        options = {"progress_title": title, "autocast": False}
        try:
            return to_unit(np.stack(embed.run_batches(self.embedder, dataset, accelerator, **options)))
        except ValueError as error:  # as transformers' vision transformers of one size raise
            size = places[0][0].size
            raise DataError(
                f"{self.folder}: cannot read {size} pixels ({first_line(error)}); set pixels.size"
            ) from None
