"""Images translated into those of another corpus: the other corpus, metrics, and rows of the report."""

import numpy as np
import torch
from torch import Tensor

from data.images.config import ImageCorpus, ImageSource
from data.images.shards import PixelShards, prepare_pixels
from data.sampling import take_evenly
from engine.log import warn_once
from pretrain.image_outputs import draw_outputs
from pretrain.model.image_decoder import ImageTranslator
from pretrain.model.image_encoder import ImageEncoder, normalized

MAX_IMAGES = 64  # of an evaluation
MIN_SPREAD = 0.1  # of translations, as a fraction of that of the images, below which a collapse is reported


def read_images(source: ImageSource, encoder: ImageEncoder, split: str) -> PixelShards:
    """Return a split of the images of a source, prepared if needed, as the encoder reads them."""
    folder = prepare_pixels(
        ImageCorpus(name="other", sources=[source]), encoder.processor.size, len(encoder.processor.mean)
    )
    return PixelShards(folder, split)


@torch.no_grad()
def measure_translations(
    encoder: ImageEncoder, there: ImageTranslator, back: ImageTranslator, pixels: np.ndarray
) -> dict[str, float]:
    """Return {"cycle_error", "translation_spread"} of at least two images; report a collapse in a line.

    cycle_error: mean difference of an image and its translation back, of values from 0 to 1. translation_spread:
    standard deviation of a pixel over translations, as a fraction of that over images.
    """
    chosen = pixels[take_evenly(range(len(pixels)), MAX_IMAGES)]
    images = encoder.unstandardize(normalized(encoder, chosen, next(encoder.parameters()).device))
    translated = there(images)
    spread = float(translated.std(0).mean() / images.std(0).mean().clamp(min=1e-6))
    if spread < MIN_SPREAD:
        message = f"warning: the translations collapse: they vary {spread:.2f} times as much as the images"
        warn_once(message, "collapse of translations")
    return {"cycle_error": float((back(translated) - images).abs().mean()), "translation_spread": spread}


def draw_translations(
    encoder: ImageEncoder, there: ImageTranslator, back: ImageTranslator, held_out: PixelShards
) -> list[list[np.ndarray]]:
    """Return some held-out images, each followed by its translation and the translation back."""

    def translate(images: Tensor) -> tuple[Tensor, Tensor]:
        translated = there(encoder.unstandardize(images))
        return encoder.standardize(translated), encoder.standardize(back(translated))

    return draw_outputs(encoder, held_out, translate)
