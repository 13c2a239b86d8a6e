"""Validation on held-out images, the same for every objective: two fixed views of an image find each other."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator

from data.images.shards import PixelShards
from data.images.views import Views
from data.sampling import row_generator, take_evenly
from engine.training.distributed import shard_list
from engine.training.gradcache import all_gather_rows
from pretrain.image_views import ImageViewDataset
from pretrain.model.batch_statistics import computed_statistics
from pretrain.model.image_encoder import ImageEncoder, statistics_batches
from pretrain.validation import FIXED_SEED, retrieval_metrics

MAX_IMAGES = 1_000
FIXED_VIEWS = Views(min_area=0.3, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, gray_prob=0)


class ImageValidator:
    """Retrieval between two views of up to MAX_IMAGES held-out images; the views are the same for every run."""

    def __init__(self, held_out: PixelShards, train: PixelShards, accelerator: Accelerator, batch_size: int = 64):
        self.accelerator, self.train = accelerator, train
        dataset = ImageViewDataset(held_out, FIXED_VIEWS)
        local = shard_list(take_evenly(range(len(held_out)), MAX_IMAGES), accelerator)
        batches = [local[start : start + batch_size] for start in range(0, len(local), batch_size)]
        self.batches = [
            dataset.collate(batch, [row_generator(FIXED_SEED, 0, row) for row in batch]).inputs for batch in batches
        ]

    @contextmanager
    def statistics(self, encoder: ImageEncoder) -> Iterator[None]:
        """Evaluate a new network with batch statistics of its current weights (`pretrain.model.batch_statistics`)."""
        device = self.accelerator.device
        with computed_statistics(encoder.model, statistics_batches(encoder, self.train.pixels, device)):
            yield

    @torch.no_grad()
    def __call__(self, encoder: ImageEncoder) -> dict[str, float]:
        """Return `retrieval_metrics`."""
        with torch.compiler.set_stance("force_eager"), self.statistics(encoder):
            return retrieval_metrics(self.embed_views(encoder))

    @torch.no_grad()
    def embed_views(self, encoder: ImageEncoder) -> torch.Tensor:
        """Return the embeddings of the views of the held-out images of all processes, float32 (images, 2, width)."""
        embeddings = [torch.zeros(0, 2, encoder.width, device=self.accelerator.device)]
        for batch in self.batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            shape = inputs.pop("group_ids").shape
            with self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                embeddings.append(encoder.embed(int(np.prod(shape)), **inputs).unflatten(0, shape))
        return all_gather_rows(torch.cat(embeddings))[0]
