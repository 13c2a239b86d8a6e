"""What an encoder and the decoder of a variational autoencoder make of an image (Kingma and Welling 2014)."""

import numpy as np
import torch
from torch import Tensor

from data.tasks.detector import fit_whitening
from data.tasks.novelty import NUM_NEIGHBORS, score_vectors
from pretrain.model.batch_statistics import computed_statistics
from pretrain.model.image_decoder import LatentDecoder
from pretrain.model.image_encoder import ImageEncoder, normalized, statistics_batches
from pretrain.model.latents import add_noise, divergence_from_normal

BATCH_SIZE = 64


def reconstruct(
    encoder: ImageEncoder, decoder: LatentDecoder, images: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images as drawn again, error (images,), divergence and mean of the latent vectors (images, dim).

    images: normalized, as the result is. noise: standard normal (images, dim); none: images are drawn of the means.
    error: squared, summed over pixels with values from 0 to 1. divergence: of a dimension from the standard normal
    distribution, in nats.
    """
    mean, log_variance = decoder.describe(encoder.embed_images(images))
    latents = mean if noise is None else add_noise(mean, log_variance, noise)
    drawn = decoder(latents)
    error = (drawn - encoder.unstandardize(images)).square().flatten(1).sum(1)
    return encoder.standardize(drawn), error, divergence_from_normal(mean, log_variance), mean


@torch.no_grad()
def describe_images(encoder: ImageEncoder, decoder: LatentDecoder, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return error, divergence and mean as `reconstruct` does, of images, uint8 (images, size, size, channels)."""
    device, parts = next(encoder.parameters()).device, []
    with computed_statistics(encoder.model, statistics_batches(encoder, pixels, device)):
        for start in range(0, len(pixels), BATCH_SIZE):
            images = normalized(encoder, pixels[start : start + BATCH_SIZE], device)
            parts.append(reconstruct(encoder, decoder, images)[1:])
    return tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))


def latent_distances(normal: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the mean distance of whitened vectors to the nearest normal ones, float32 (vectors,): an anomaly score.

    normal, vectors: float32 (rows, width), for example means of latent vectors. As `finetune.detector` scores.
    """
    center, projection = (torch.from_numpy(each) for each in fit_whitening([normal]))
    known, whitened = ((torch.from_numpy(each) - center) @ projection for each in (normal, vectors))
    return score_vectors(whitened, (torch.zeros_like(center), known), NUM_NEIGHBORS)[:, 0].numpy()
