"""Image embeddings to evaluate: of an encoder, of the same network with random weights, and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from data.images.baseline import PixelFeatures
from data.images.config import Pixels
from data.images.processor import read_processor
from data.images.task import ImageStore, ImageTask
from data.tasks.task import Example
from engine.models import LOAD_KWARGS
from engine.training.distributed import make_accelerator
from pretrain.info_nce import embedding_stats
from pretrain.model.batch_statistics import computed_statistics, use_batch_statistics
from pretrain.model.image_encoder import ImageEncoder, image_encoder_from_pretrained, normalized, statistics_batches

BATCH_SIZE = 64
PIXELS_SIZE = 16
ImageEmbedder = Callable[[list[str]], np.ndarray]
"""Keys of images to embeddings, float32 (images, width)."""


def size_task(task: ImageTask, folder: Path) -> ImageTask:
    """Return a task with its images in the form that the encoder in `folder` reads."""
    processor = read_processor(folder)
    return task.model_copy(update={"pixels": Pixels(size=processor.size, channels=len(processor.mean))})


def build_embedders(
    name: str, folder: Path, task: ImageTask, splits: dict[str, list[Example]]
) -> dict[str, ImageEmbedder]:
    """Return the functions from keys to embeddings, by the name of what computes them."""
    accelerator, store = make_accelerator("native"), ImageStore(task)
    trained = image_encoder_from_pretrained(folder, task.pixels.size, task.pixels.channels, 0.0)
    torch.manual_seed(0)
    model = AutoModel.from_config(trained.model.config, **LOAD_KWARGS)
    use_batch_statistics(model)
    untrained = ImageEncoder(model, trained.processor)
    train_pixels = store.read_pixels(splits["train"])
    pixels = PixelFeatures(store, PIXELS_SIZE).fit(splits["train"])

    def embed_keys(encoder: ImageEncoder) -> ImageEmbedder:
        encoder.to(accelerator.device).eval()

        @torch.no_grad()
        def embed(keys: list[str]) -> np.ndarray:
            images, parts = store.read_pixels(to_examples(keys)), []
            batches = statistics_batches(encoder, train_pixels, accelerator.device)
            with computed_statistics(encoder.model, batches), accelerator.autocast():
                for start in range(0, len(images), BATCH_SIZE):
                    inputs = normalized(encoder, images[start : start + BATCH_SIZE], accelerator.device)
                    parts.append(encoder.embed_images(inputs).float().cpu().numpy())
            return np.concatenate(parts)

        return embed

    return {
        name: embed_keys(trained),
        "same network, random weights": embed_keys(untrained),
        f"{PIXELS_SIZE} x {PIXELS_SIZE} pixels": lambda keys: pixels(to_examples(keys)).astype(np.float32),
    }


def to_examples(keys: list[str]) -> list[Example]:
    """Return examples without labels."""
    return [Example((key,), "") for key in keys]


def measure_rank(embeddings: np.ndarray) -> float:
    """Return the effective rank of embeddings, float32 (images, width): 1 if all are on a line."""
    return float(embedding_stats(torch.from_numpy(embeddings)[:, None].expand(-1, 2, -1))["effective_rank"])
