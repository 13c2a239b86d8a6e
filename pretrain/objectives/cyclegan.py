"""CycleGAN (Zhu et al. 2017): translate images of two corpora into each other, without pairs.

Two generators make an image of one corpus look like those of the other, such that the way back gives the image again;
two discriminators judge them, of which the one of the run's own corpus is the encoder. All learn from one backward pass
(`pretrain.model.discriminator`). Discriminators see the images of the step; there is no history of generated ones.
"""

import copy
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from data.images.config import ImageSource
from data.images.shards import PixelShards
from data.images.views import Views
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.training.step import MicroBatch, Output
from pretrain.generator import save_generator
from pretrain.image_views import WholeImageDataset
from pretrain.model.discriminator import Discriminator
from pretrain.model.image_decoder import ImageTranslator
from pretrain.model.image_encoder import ImageEncoder
from pretrain.objective import BaseObjective, Gallery, HeldOut
from pretrain.translation import draw_translations, measure_translations, read_images


class Config(Section):
    """Translation between two corpora."""

    name: Literal["cyclegan"] = "cyclegan"
    """cyclegan: translate images into those of another corpus and back; train.beta1=0.5 is usual."""
    other: ImageSource | None = None
    """The images of the other corpus."""
    generator_width: PositiveInt = 16
    """Channels of the largest hidden map of the generators; those between have two and four times as many."""
    generator_blocks: PositiveInt = 4
    """Residual blocks of the generators."""
    cycle_weight: NonNegativeFloat = 10.0
    """Weight of the difference between an image and its translation back."""
    identity_weight: NonNegativeFloat = 5.0
    """Weight of what a generator changes in an image that is already of its corpus."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raise ConfigError without another corpus."""
        if self.other is None:
            raise ConfigError("objective.other: cyclegan needs a second corpus, for example objective.other.folder=DIR")


class Dataset(WholeImageDataset):
    """Whole images, and as many of the other corpus, drawn at random: `other_pixels` and `other_params`."""

    def __init__(self, config: Config, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings)
        self.other = WholeImageDataset(read_images(config.other, encoder, "train"), settings)
        if not len(self.other):
            raise ConfigError("objective.other: all its images are held out")

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make the inputs of `Objective.forward`."""
        inputs, num_images = super().collate(indices, generators)
        chosen = [int(generator.integers(len(self.other))) for generator in generators]
        other, _ = self.other.collate(chosen, generators)
        more = {"other_pixels": other["pixels"], "other_params": other["view_params"]}
        return MicroBatch(inputs | more, num_images)


class Objective(BaseObjective):
    """Summed losses of both discriminators and generators, and the number of images of the run's corpus."""

    has_generator, is_adversarial = True, True

    def __init__(self, config: Config, encoder: ImageEncoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        if encoder.processor.size % 4:
            raise ConfigError(f"pixels.size: {encoder.processor.size} is not divisible by 4, as cyclegan needs")
        self.discriminator, self.other_discriminator = Discriminator(encoder), Discriminator(copy.deepcopy(encoder))
        shape = len(encoder.processor.mean), config.generator_width, config.generator_blocks
        self.to_other, self.from_other = ImageTranslator(*shape), ImageTranslator(*shape)

    def list_copies(self) -> list[nn.Module]:
        """Return the network of the other corpus's discriminator."""
        return [self.other_discriminator.encoder]

    def forward(self, pixels: Tensor, view_params: Tensor, other_pixels: Tensor, other_params: Tensor) -> Output:
        """Compute the losses of inputs from `Dataset.collate`."""
        values = self.encoder.unstandardize
        own = values(self.encoder.make_views(pixels, view_params))
        other = values(self.encoder.make_views(other_pixels, other_params))
        config, losses = self.config, dict.fromkeys(("discriminator", "generator", "cycle", "identity"), 0.0)
        for real, target, there, back, judge in (
            (own, other, self.to_other, self.from_other, self.other_discriminator),
            (other, own, self.from_other, self.to_other, self.discriminator),
        ):
            translated = there(real)
            scores = judge.compare(*map(self.encoder.standardize, (target, translated)))
            losses["discriminator"] += (scores[0] - 1).square() + scores[1].square()  # least squares (Mao et al. 2017)
            losses["generator"] += (scores[2] - 1).square()
            losses["cycle"] += (back(translated) - real).abs().flatten(1).mean(1)
            losses["identity"] += (there(target) - target).abs().flatten(1).mean(1)
        count = own.new_full((), len(own))
        metrics = {f"{name}_loss": torch.stack([each.detach().sum(), count]) for name, each in losses.items()}
        weights = {"cycle": config.cycle_weight, "identity": config.identity_weight}
        return Output(sum(weights.get(name, 1.0) * each.sum() for name, each in losses.items()), count, metrics)

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return the metrics of translations of held-out images (`pretrain.translation`)."""
        if len(held_out.data) < 2 or not held_out.accelerator.is_main_process:
            return {}
        return measure_translations(self.encoder, self.to_other, self.from_other, held_out.data.pixels)

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return held-out images of both corpora with their translations and those back."""
        there, back, others = self.to_other, self.from_other, read_images(self.config.other, self.encoder, "held_out")
        own_rows = draw_translations(self.encoder, there, back, held_out.data)
        other_rows = draw_translations(self.encoder, back, there, others)
        title = "Held-out images{}, translated, and translated back"
        sections = [(title.format(""), own_rows), (title.format(" of the other corpus"), other_rows)]
        return [section for section in sections if section[1]]

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write both generators."""
        for name, network in (("to_other", self.to_other), ("from_other", self.from_other)):
            (folder / name).mkdir()
            save_generator(folder / name, network, f"generator/{name}")
