"""Noisy images: blurred, with noise on every pixel, and a hole (Vincent et al. 2008; Pathak et al. 2016)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.images.shards import PixelShards
from data.images.views import Views
from engine.training.step import MicroBatch
from pretrain.image_views import WholeImageDataset
from pretrain.model.image_encoder import ImageEncoder


class Noise(Protocol):
    """The settings of the noise."""

    pixel_noise: float
    hole_area: float
    blur: float


class NoisyImageDataset(WholeImageDataset):
    """Whole images, and what their noise is computed from."""

    def __init__(self, config: Noise, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings)
        self.config = config

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make pixels and parameters of one view, `seeds`, int64 (rows,), `holes`, float32 (rows, 4), `blur`, (rows,).

        holes: left, top, right and bottom, of coordinates from 0 to 1. blur: standard deviation in pixels.
        """
        inputs, num_images = super().collate(indices, generators)
        draws = np.stack([generator.random(5) for generator in generators])
        seeds = np.array([generator.integers(2**62) for generator in generators])
        aspect = 2 ** (2 * draws[:, 2] - 1)
        sides = np.sqrt(np.stack([self.config.hole_area * aspect, self.config.hole_area / aspect], 1)).clip(max=1)
        corners = draws[:, :2] * (1 - sides)
        inputs["holes"] = torch.from_numpy(np.concatenate([corners, corners + sides], 1)).float()
        inputs["blur"] = torch.from_numpy(self.config.blur * draws[:, 3]).float()
        return MicroBatch({**inputs, "seeds": torch.from_numpy(seeds)}, num_images)


def add_noise(config: Noise, images: Tensor, seeds: Tensor, holes: Tensor, blur: Tensor) -> Tensor:
    """Return images with the noise of `NoisyImageDataset`; holes have the mean color of their image.

    images: float32 (images, channels, size, size), with values from 0 to 1.
    """
    size, pixel_noise = images.shape[-1], config.pixel_noise
    noisy = blur_images(images, blur, round(3 * config.blur))
    if pixel_noise:
        shape = images.shape[1:]
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
        noisy = noisy + pixel_noise * torch.stack(noise).to(images.device)
    centers = (torch.arange(size, device=images.device) + 0.5) / size
    inside = (centers >= holes[:, :2, None]) & (centers < holes[:, 2:, None])
    is_hole = inside[:, 1, :, None] & inside[:, 0, None, :]
    return torch.where(is_hole[:, None], images.mean((2, 3), keepdim=True), noisy)


def blur_images(images: Tensor, blur: Tensor, radius: int) -> Tensor:
    """Blur each image by a Gaussian of its own standard deviation in pixels, (images,), cut off at a radius."""
    if not radius:
        return images
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = (-(offsets**2) / (2 * blur.clamp(min=1e-3)[:, None] ** 2)).exp()
    weights = weights / weights.sum(1, keepdim=True)
    count, channels, size, _ = images.shape
    flat, weights = images.reshape(1, -1, size, size), weights.repeat_interleave(channels, 0)[:, None]
    for axis in (-1, -2):
        padding = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        padded = F.pad(flat, padding, "replicate")
        flat = F.conv2d(padded, weights.unsqueeze(-2 if axis == -1 else -1), groups=count * channels)
    return flat.view_as(images)
