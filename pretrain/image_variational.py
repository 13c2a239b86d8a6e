"""Variational autoencoder of images: a decoder draws an image from a noisy latent vector of its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from data.images.shards import PixelShards
from data.images.views import Views
from data.sampling import take_evenly
from engine.training.step import Output
from pretrain.generator import draw_samples, save_generator
from pretrain.image_outputs import draw_outputs
from pretrain.image_views import WholeImageDataset
from pretrain.model.image_decoder import LatentDecoder
from pretrain.model.image_encoder import ImageEncoder
from pretrain.model.latents import count_active, report_posterior_collapse
from pretrain.model.variational import describe_images, reconstruct
from pretrain.objective import BaseObjective, Gallery, HeldOut

MAX_IMAGES = 1_000
NUM_UNUSUAL = 8


class Settings(Protocol):
    """The settings of latent vectors and decoder."""

    latent_dim: int
    decoder_width: int
    pixel_std: float
    beta: float
    free_bits: float | None


class NoiseDataset(WholeImageDataset):
    """Whole images, and `noise`, float32 (rows, latent_dim)."""

    def __init__(self, config: Settings, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings, config.latent_dim)


class ImageAutoencoder(BaseObjective):
    """Summed squared error of pixels, over twice the noise's variance, plus beta times the divergence; images."""

    has_generator: ClassVar[bool] = True

    def __init__(self, config: Settings, encoder: ImageEncoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        shape = len(encoder.processor.mean), encoder.processor.size, config.decoder_width
        self.decoder = LatentDecoder(encoder.width, config.latent_dim, *shape)

    def forward(self, pixels: Tensor, view_params: Tensor, noise: Tensor) -> Output:
        """Compute the loss of inputs from `NoiseDataset.collate`."""
        images = self.encoder.make_views(pixels, view_params)
        _, error, divergence, _ = reconstruct(self.encoder, self.decoder, images, noise)
        cost = divergence.clamp(min=self.config.free_bits or 0.0).sum(1)
        count = error.new_full((), len(images))
        parts = {"squared_error": error / images[0].numel(), "divergence": divergence.sum(1)}
        metrics = {name: torch.stack([values.detach().sum(), count]) for name, values in parts.items()}
        loss = error / (2 * self.config.pixel_std**2) + self.config.beta * cost
        return Output(loss.sum(), count, metrics)

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return the mean squared error of a pixel, divergence in nats, and the number of latent dimensions in use."""
        pixels = held_out.data.pixels
        if len(pixels) < 2 or not held_out.accelerator.is_main_process:
            return {}
        pixels = pixels[take_evenly(range(len(pixels)), MAX_IMAGES)]
        error, divergence, means = describe_images(self.encoder, self.decoder, pixels)
        active = count_active(means)
        report_posterior_collapse(
            active, means, "try a lower objective.beta, objective.free_bits=0.1 or a lower train.lr"
        )
        metrics = {"squared_error": error.mean() / pixels[0].size, "divergence": divergence.sum(1).mean()}
        return {name: float(value) for name, value in metrics.items()} | {"active_dims": active}

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return samples, reconstructions, and the held-out images that are drawn worst."""
        pixels, sections = held_out.data.pixels, draw_samples(self.decoder)
        if not len(pixels):
            return sections
        pixels = pixels[take_evenly(range(len(pixels)), MAX_IMAGES)]
        error, divergence, _ = describe_images(self.encoder, self.decoder, pixels)
        scores = error / (2 * self.config.pixel_std**2) + divergence.sum(1)
        unusual = scores.topk(min(NUM_UNUSUAL, len(pixels))).indices.tolist()
        drawn = draw_outputs(
            self.encoder, held_out.data, lambda images: reconstruct(self.encoder, self.decoder, images)[:1]
        )
        sections.append(("Held-out images, and their reconstruction", drawn))
        return [*sections, ("Held-out images that are drawn worst", [list(pixels[unusual])])]

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write the decoder."""
        save_generator(folder, self.decoder)
