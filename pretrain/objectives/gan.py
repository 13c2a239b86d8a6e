"""Generative adversarial network (DCGAN, Radford et al. 2016; WGAN-GP, Gulrajani et al. 2017) on images.

The encoder is the discriminator, which separates images from those that a generator makes of noise. Both networks
learn at every step, from one backward pass (`pretrain.model.discriminator`). The generator is saved in generator/.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from data.images.shards import PixelShards
from data.images.views import Views
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.training.step import MicroBatch, Output
from pretrain.frechet import SampleQuality
from pretrain.generator import draw_samples, sample_images, save_generator
from pretrain.image_views import WholeImageDataset
from pretrain.model.discriminator import Discriminator
from pretrain.model.image_decoder import ImageDecoder
from pretrain.model.image_encoder import ImageEncoder, normalizes_by_batch
from pretrain.objective import BaseObjective, Gallery, HeldOut


class Config(Section):
    """Generative adversarial network."""

    name: Literal["gan"] = "gan"
    """gan: separate images from those that a generator learns to make; train.beta1=0.5 is usual."""
    loss: Literal["dcgan", "wgan-gp"] = "dcgan"
    """dcgan: cross-entropy; wgan-gp: difference of scores with a gradient penalty, for networks without batch
    normalization."""
    latent_dim: PositiveInt = 64
    """Width of the noise that the generator makes an image of."""
    generator_width: PositiveInt = 32
    """Channels of the generator's largest hidden map; each smaller one has twice as many."""
    gradient_penalty: PositiveFloat = 10.0
    """Weight of the gradient penalty of wgan-gp."""
    evaluation_images: NonNegativeInt = 1_000
    """Samples and held-out images that are compared at an evaluation, by efficientnet-lite0's features; 0: none."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset(WholeImageDataset):
    """Whole images, `noise` for the generator, and for wgan-gp `mix`, float32 (rows,), from 0 to 1."""

    def __init__(self, config: Config, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings, config.latent_dim)
        self.has_mix = config.loss == "wgan-gp"

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make the inputs of `Objective.forward`."""
        inputs, num_images = super().collate(indices, generators)
        if self.has_mix:
            inputs["mix"] = torch.tensor([generator.random() for generator in generators], dtype=torch.float32)
        return MicroBatch(inputs, num_images)


class Objective(BaseObjective):
    """Summed losses of discriminator and generator, and the number of images."""

    has_generator, is_adversarial = True, True

    def __init__(self, config: Config, encoder: ImageEncoder):
        super().__init__()
        if config.loss == "wgan-gp" and normalizes_by_batch(encoder):
            raise ConfigError("objective.loss: wgan-gp needs a network without batch normalization (convnextv2, vit)")
        self.config, self.encoder, self.discriminator = config, encoder, Discriminator(encoder)
        channels, size = len(encoder.processor.mean), encoder.processor.size
        self.generator = ImageDecoder(config.latent_dim, channels, size, config.generator_width, normalizes=True)
        self.quality = SampleQuality(config.evaluation_images) if config.evaluation_images else None

    def forward(self, pixels: Tensor, view_params: Tensor, noise: Tensor, mix: Tensor | None = None) -> Output:
        """Compute the losses of inputs from `Dataset.collate`."""
        real = self.encoder.make_views(pixels, view_params)
        generated = self.encoder.standardize(self.generator(noise))
        real_scores, fake_scores, scores = self.discriminator.compare(real, generated)
        if mix is None:
            losses = {"discriminator_loss": F.softplus(-real_scores) + F.softplus(fake_scores)}
            losses["generator_loss"] = F.softplus(-scores)
            losses["discriminator_accuracy"] = ((real_scores > 0).float() + (fake_scores < 0).float()) / 2
        else:
            mixed = torch.lerp(generated.detach(), real, mix[:, None, None, None])
            penalty = self.config.gradient_penalty * self.discriminator.gradient_penalty(mixed)
            losses = {"discriminator_loss": fake_scores - real_scores + penalty, "generator_loss": -scores}
        count = real.new_full((), len(real))
        metrics = {name: torch.stack([values.detach().sum(), count]) for name, values in losses.items()}
        return Output((losses["discriminator_loss"] + losses["generator_loss"]).sum(), count, metrics)

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return the metrics of samples (`pretrain.frechet`), always of the same noise."""
        if self.quality is None or len(held_out.data) < 2 or not held_out.accelerator.is_main_process:
            return {}
        return self.quality.measure(sample_images(self.generator, self.config.evaluation_images), held_out.data.pixels)

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return samples, and images between two of them."""
        return draw_samples(self.generator)

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write the generator."""
        save_generator(folder, self.generator)
