"""Variational autoencoder (Kingma and Welling 2014) of images, with beta (Higgins et al. 2017) and free bits.

A latent vector is described by the embedding of an image, and a decoder draws the image from it. The decoder is saved
in generator/: it makes images of noise, and with the encoder scores how unusual an image is.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from data.images.shards import PixelShards
from data.images.views import Views
from data.sampling import take_evenly
from engine.config.schema import Section
from engine.log import warn_once
from engine.training.step import Output
from pretrain.generator import draw_samples, save_generator
from pretrain.image_outputs import draw_outputs
from pretrain.image_views import WholeImageDataset
from pretrain.model.image_decoder import LatentDecoder
from pretrain.model.image_encoder import ImageEncoder
from pretrain.model.variational import describe_images, reconstruct
from pretrain.objective import BaseObjective, Gallery, HeldOut

MAX_IMAGES = 1_000
ACTIVE_VARIANCE = 0.01  # of the mean of a latent dimension over images, from which it is in use (Burda et al. 2016)
MIN_ACTIVE = 2  # fewer are reported
NUM_UNUSUAL = 8


class Config(Section):
    """Variational autoencoder."""

    name: Literal["vae"] = "vae"
    """vae: draw an image again from a noisy latent vector of its embedding."""
    latent_dim: PositiveInt = 64
    """Width of the latent vectors."""
    decoder_width: PositiveInt = 32
    """Channels of the decoder's largest hidden map; each smaller one has twice as many."""
    pixel_std: PositiveFloat = 0.1
    """Standard deviation of the noise of a pixel, from 0 to 1; a smaller one gives finer drawings and worse samples."""
    beta: NonNegativeFloat = 1.0
    """Weight of the divergence of a latent vector's distribution from the standard normal one."""
    free_bits: NonNegativeFloat = 0.0
    """Divergence of a latent dimension, in nats, without a cost (Kingma et al. 2016), against posterior collapse."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset(WholeImageDataset):
    """Whole images, and `noise`, float32 (rows, latent_dim)."""

    def __init__(self, config: Config, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings, config.latent_dim)


class Objective(BaseObjective):
    """Summed squared error of pixels, over twice the noise's variance, plus beta times the divergence; images."""

    has_generator = True

    def __init__(self, config: Config, encoder: ImageEncoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        shape = len(encoder.processor.mean), encoder.processor.size, config.decoder_width
        self.decoder = LatentDecoder(encoder.width, config.latent_dim, *shape)

    def forward(self, pixels: Tensor, view_params: Tensor, noise: Tensor) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        images = self.encoder.make_views(pixels, view_params)
        _, error, divergence, _ = reconstruct(self.encoder, self.decoder, images, noise)
        cost = divergence.clamp(min=self.config.free_bits).sum(1)
        count = error.new_full((), len(images))
        parts = {"squared_error": error / images[0].numel(), "divergence": divergence.sum(1)}
        metrics = {name: torch.stack([values.detach().sum(), count]) for name, values in parts.items()}
        loss = error / (2 * self.config.pixel_std**2) + self.config.beta * cost
        return Output(loss.sum(), count, metrics)

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return the mean squared error of a pixel, divergence in nats, and the number of latent dimensions in use."""
        pixels = held_out.data.pixels
        if not len(pixels) or not held_out.accelerator.is_main_process:
            return {}
        pixels = pixels[take_evenly(range(len(pixels)), MAX_IMAGES)]
        error, divergence, mean = describe_images(self.encoder, self.decoder, pixels)
        active = int((mean.var(0, correction=0) > ACTIVE_VARIANCE).sum())
        if active < min(MIN_ACTIVE, len(pixels) - 1, self.config.latent_dim):
            warn_once(
                f"warning: posterior collapse: {active} of {self.config.latent_dim} latent dimensions depend on the"
                " image; try a lower objective.beta, objective.free_bits=0.1 or a lower train.lr"
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
