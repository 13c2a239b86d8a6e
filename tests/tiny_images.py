"""Images in memory and image encoders that train in a second."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from data.images.processor import Processor
from data.images.views import Views
from pretrain.config import ImageModel
from pretrain.model.image_encoder import ImageEncoder, image_encoder_from_config

ARCHITECTURES = ("resnet", "convnextv2", "efficientnet", "vit", "dinov2")
SIZE = 32


def draw_images(count: int, size: int = SIZE, channels: int = 3) -> np.ndarray:
    """Return bright rectangles on noise, uint8 (count, size, size, channels)."""
    random = np.random.default_rng(0)
    images = random.integers(0, 80, (count, size, size, channels), dtype=np.uint8)
    for image in images:
        top, left = random.integers(0, size // 2, 2)
        height, width = random.integers(size // 4, size // 2, 2)
        image[top : top + height, left : left + width] += random.integers(60, 170, channels, dtype=np.uint8)
    return images


class InMemoryPixels:
    """Pixels of a split, in memory."""

    def __init__(self, count: int = 12, channels: int = 3):
        self.pixels = draw_images(count, channels=channels)

    def __len__(self) -> int:
        return len(self.pixels)


def tiny_image_encoder(architecture: str = "resnet", channels: int = 3) -> ImageEncoder:
    """Return an encoder for `InMemoryPixels`, with the same weights at every call."""
    torch.manual_seed(0)
    patch = 2 if architecture == "convnextv2" else 8
    model = ImageModel(architecture=architecture, layers=4, hidden_size=32, attention_heads=2, patch_size=patch)
    return image_encoder_from_config(model, Processor(SIZE, (0.5,) * channels, (0.25,) * channels), 0.0)


def image_dataset(file, encoder: ImageEncoder, config=None, shards=None, views: Views | None = None):
    """Return the data set of an objective's file."""
    from pretrain.image_views import ImageViewDataset

    shards, views = shards or InMemoryPixels(), views or Views()
    if dataset := getattr(file, "Dataset", None) or getattr(file, "DATASETS", {}).get("images"):
        return dataset(config or file.Config(), shards, views, encoder)
    return ImageViewDataset(shards, views)


TINY_OPTIONS = {
    "contrastive": {"projection_dim": 8},
    "mae": {"decoder_dim": 32},
    "dino": {"prototypes": 16},
    "denoise": {"decoder_width": 4},
    "vae": {"latent_dim": 6, "decoder_width": 4},
    "gan": {"latent_dim": 6, "generator_width": 4, "evaluation_images": 0},
    "cyclegan": {"other": {"folder": "other"}, "generator_width": 4, "generator_blocks": 1},
}


def make_objective(file, architecture: str = "vit", **options):
    """Return (objective, its data set) of an objective's file, with the same weights at every call."""
    name = file.__name__.rpartition(".")[2]
    encoder, config = tiny_image_encoder(architecture), file.Config(**TINY_OPTIONS.get(name, {}) | options)
    torch.manual_seed(1)
    with patch("pretrain.objectives.cyclegan.read_images", lambda *args: InMemoryPixels(7)):
        return file.Objective(config, encoder), image_dataset(file, encoder, config)


def write_idx(path: Path, images: np.ndarray) -> Path:
    """Write gray images, uint8 (count, size, size), in the format of MNIST."""
    header = struct.pack(">HBB", 0, 8, images.ndim) + struct.pack(f">{images.ndim}I", *images.shape)
    path.write_bytes(gzip.compress(header + images.tobytes()))
    return path
