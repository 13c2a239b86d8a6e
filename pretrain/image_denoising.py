"""Denoising autoencoder of images: draw the whole image from the embedding of a noisy copy."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from data.images.views import Views
from data.sampling import row_generator, take_evenly
from engine.log import warn_once
from engine.training.step import Output
from pretrain.image_noise import Noise, NoisyImageDataset, add_noise
from pretrain.image_outputs import NUM_OUTPUTS, to_pixels
from pretrain.model.batch_statistics import computed_statistics
from pretrain.model.image_decoder import ImageDecoder
from pretrain.model.image_encoder import ImageEncoder, statistics_batches
from pretrain.objective import FIXED_SEED, BaseObjective, Gallery, HeldOut

MAX_IMAGES, BATCH_SIZE = 512, 64
MIN_GAIN = 0.02  # of the error that an image's own embedding must save


class Settings(Noise, Protocol):
    """The settings of noise and decoder."""

    decoder_width: int


class ImageDenoiser(BaseObjective):
    """Summed mean squared error of the pixels of the images, with values from 0 to 1, and the number of images."""

    dataset_class: ClassVar[type] = NoisyImageDataset

    def __init__(self, config: Settings, encoder: ImageEncoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        channels, size = len(encoder.processor.mean), encoder.processor.size
        self.decoder = ImageDecoder(encoder.width, channels, size, config.decoder_width)

    def rebuild(self, pixels: Tensor, view_params: Tensor, **noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, what the encoder reads of them, and what is rebuilt, all with values from 0 to 1."""
        images = self.encoder.unstandardize(self.encoder.make_views(pixels, view_params))
        noisy = add_noise(self.config, images, **noise)
        return images, noisy, self.decoder(self.encoder.embed_images(self.encoder.standardize(noisy)))

    def forward(self, **inputs: Tensor) -> Output:
        """Compute the loss of inputs from `NoisyImageDataset.collate`."""
        images, _, rebuilt = self.rebuild(**inputs)
        errors = (rebuilt - images).square().flatten(1).mean(1)
        return Output(errors.sum(), errors.new_full((), len(errors)))

    @torch.no_grad()
    def rebuild_held_out(self, held_out: HeldOut, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `rebuild` does of held-out images, always with the same noise."""
        data, device, parts = held_out.data, held_out.accelerator.device, []
        dataset = NoisyImageDataset(self.config, data, Views(horizontal_flip=0), self.encoder)
        chosen = take_evenly(range(len(data)), count)
        with computed_statistics(self.encoder.model, statistics_batches(self.encoder, data.pixels, device)):
            for start in range(0, len(chosen), BATCH_SIZE):
                rows = chosen[start : start + BATCH_SIZE]
                inputs = dataset.collate(rows, [row_generator(FIXED_SEED, 0, row) for row in rows]).inputs
                parts.append(self.rebuild(**{name: tensor.to(device) for name, tensor in inputs.items()}))
        return tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return the error, and how much larger it is with the embedding of another image.

        Embeddings that are ignored are reported after the first evaluation.
        """
        if len(held_out.data) < 2 or not held_out.accelerator.is_main_process:
            return {}
        images, _, rebuilt = self.rebuild_held_out(held_out, MAX_IMAGES)
        own, other = (float((each - images).square().mean()) for each in (rebuilt, rebuilt.roll(1, 0)))
        if self.is_evaluated and other - own < MIN_GAIN * own:
            warn_once(
                "warning: the decoder ignores the embeddings: another image's are as good; try less noise, more"
                " train.steps, or another train.lr"
            )
        self.is_evaluated = True
        return {"reconstruction_error": own, "embedding_gain": other - own}

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return held-out images, what the encoder reads of them, and what is rebuilt."""
        if not len(held_out.data):
            return []
        rows = zip(*map(to_pixels, self.rebuild_held_out(held_out, NUM_OUTPUTS)), strict=True)
        title = "Held-out images, what the encoder reads of them, and what is rebuilt from its embedding"
        return [(title, [list(row) for row in rows])]
