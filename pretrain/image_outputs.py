"""Images that a network makes, for the report of a run."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from data.images.shards import PixelShards
from data.sampling import take_evenly
from pretrain.model.image_encoder import ImageEncoder, normalized

NUM_OUTPUTS = 3


def to_pixels(images: Tensor) -> np.ndarray:
    """Return uint8 pixels (images, size, size, channels) of images with values from 0 to 1."""
    return (255 * images.permute(0, 2, 3, 1).float().cpu().numpy().clip(0, 1)).round().astype(np.uint8)


def denormalized(encoder: ImageEncoder, images: Tensor) -> np.ndarray:
    """Return uint8 pixels (images, size, size, channels) of normalized images."""
    return to_pixels(encoder.unstandardize(images.float()))


@torch.no_grad()
def draw_outputs(
    encoder: ImageEncoder, held_out: PixelShards, compute: Callable[[Tensor], Sequence[Tensor]]
) -> list[list[np.ndarray]]:
    """Return some held-out images, each followed by outputs; none if no image is held out.

    compute: returns the outputs, each (images, channels, size, size), of normalized images.
    """
    if not len(held_out):
        return []
    pixels = held_out.pixels[take_evenly(range(len(held_out)), NUM_OUTPUTS)]
    images = normalized(encoder, pixels, next(encoder.parameters()).device)
    outputs = [denormalized(encoder, each) for each in compute(images)]
    return [list(row) for row in zip(pixels, *outputs, strict=True)]
