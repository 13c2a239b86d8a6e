"""Masked autoencoder (He et al. 2022): predict the pixels of hidden patches from a quarter of an image.

The encoder, a transformer on patches, reads the visible patches alone, which makes a step several times faster. The
decoder is not saved. The encoder is one to fine-tune: its frozen embeddings are worse than those of other objectives.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from data.images.shards import PixelShards
from data.images.views import Views
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.training.step import MicroBatch, Output
from pretrain.image_outputs import draw_outputs
from pretrain.image_views import ImageViewDataset
from pretrain.model.image_encoder import ImageEncoder
from pretrain.model.patches import from_patches, position_embeddings, to_patches
from pretrain.objective import BaseObjective, Gallery, HeldOut


class Config(Section):
    """Masked autoencoder."""

    name: Literal["mae"] = "mae"
    """mae: predict the pixels of an image's hidden patches; for transformers on patches."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Fraction of an image's patches that are hidden."""
    decoder_layers: PositiveInt = 2
    """Layers of the decoder."""
    decoder_dim: PositiveInt = 128
    """Width of the decoder, a multiple of 32."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Raise ConfigError for a decoder that cannot be built."""
        if self.decoder_dim % 32:
            raise ConfigError(f"objective.decoder_dim: {self.decoder_dim} is not a multiple of 32")


class Dataset(ImageViewDataset):
    """One random view of each image, and the patches that are not hidden."""

    views: ClassVar[int] = 1

    def __init__(self, config: Config, shards: PixelShards, settings: Views, encoder: ImageEncoder):
        super().__init__(shards, settings)
        self.num_patches = count_patches(encoder)
        self.num_kept = count_kept(config.mask_ratio, self.num_patches)

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make pixels and parameters of the views, and `kept`, int64 (rows, kept), indices of visible patches."""
        inputs, num_images = super().collate(indices, generators)
        kept = [np.sort(generator.permutation(self.num_patches)[: self.num_kept]) for generator in generators]
        del inputs["group_ids"]
        return MicroBatch({**inputs, "kept": torch.from_numpy(np.stack(kept))}, num_images)


class Objective(BaseObjective):
    """Summed mean squared error of the hidden patches, each with mean 0 and variance 1; their count."""

    def __init__(self, config: Config, encoder: ImageEncoder):
        super().__init__()
        self.encoder, self.mask_ratio = encoder, config.mask_ratio
        dim, self.patch = config.decoder_dim, encoder.patch_size
        num_patches = count_patches(encoder)
        self.input = nn.Linear(encoder.width, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.register_buffer("positions", position_embeddings(round(num_patches**0.5), dim), persistent=False)
        layer = nn.TransformerEncoderLayer(dim, dim // 32, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoder(
            layer, config.decoder_layers, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.output = nn.Linear(dim, self.patch**2 * len(encoder.processor.mean))

    def predict(self, images: Tensor, kept: Tensor) -> Tensor:
        """Return predicted patches, (images, patches, pixels of a patch), of normalized images."""
        states = self.input(self.encoder.patch_states(images, kept))
        tokens = self.mask_token.to(states.dtype).expand(len(images), len(self.positions), -1)
        tokens = tokens.scatter(1, kept[..., None].expand_as(states), states)
        return self.output(self.decoder(tokens + self.positions.to(states.dtype))).float()

    def forward(self, pixels: Tensor, view_params: Tensor, kept: Tensor) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        images = self.encoder.make_views(pixels, view_params)
        targets = to_patches(images, self.patch)
        targets = (targets - targets.mean(-1, keepdim=True)) / (targets.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (self.predict(images, kept) - targets).square().mean(-1)
        is_hidden = torch.ones_like(errors).scatter(1, kept, 0.0)
        return Output((errors * is_hidden).sum(), is_hidden.sum())

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return some held-out images with their visible patches and their reconstruction."""
        title = "Held-out images, what is visible of them, and the reconstruction"
        rows = draw_outputs(self.encoder, held_out.data, self.reconstruct)
        return [(title, rows)] if rows else []

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (images with hidden patches black, images with them predicted) of normalized images, for a person.

        The brightness and contrast of a hidden patch, which are not predicted, are those of the image.
        """
        patches, count = to_patches(images, self.patch), count_kept(self.mask_ratio, len(self.positions))
        kept = torch.linspace(0, 1, len(self.positions), device=images.device).mul(7_919).frac().argsort()[:count]
        kept = kept.sort().values.expand(len(images), -1)
        mean, std = patches.mean((1, 2), keepdim=True), patches.std(-1, keepdim=True).mean(1, keepdim=True)
        restored, index = self.predict(images, kept) * std + mean, kept[..., None].expand(-1, -1, patches.shape[2])
        hidden = torch.full_like(patches, float(patches.min()))
        parts = [base.scatter(1, index, patches.gather(1, index)) for base in (hidden, restored)]
        return tuple(from_patches(each, self.patch, images.shape) for each in parts)


def count_kept(mask_ratio: float, num_patches: int) -> int:
    """Return the number of patches of an image that are visible."""
    return max(1, num_patches - round(mask_ratio * num_patches))


def count_patches(encoder: ImageEncoder) -> int:
    """Return the number of patches of an image. Raises ConfigError for a network without any."""
    if encoder.patch_size == 1:
        kind = encoder.model.config.model_type
        raise ConfigError(f"objective.name: mae needs a transformer on patches (vit, dinov2), which {kind} is not")
    return (encoder.processor.size // encoder.patch_size) ** 2
