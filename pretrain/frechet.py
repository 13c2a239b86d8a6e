"""Quality of generated images: the Fréchet distance of their features to those of held-out images, and their variety.

The features are those of the built-in encoder, not of the Inception network, so the distance is not comparable to
published values of FID (Heusel et al. 2017), which it otherwise follows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.encoders import resolve_encoder
from data.sampling import take_evenly
from engine.log import warn_once
from pretrain.info_nce import effective_rank
from pretrain.model.image_encoder import ImageEncoder, image_encoder_from_pretrained

ENCODER = "efficientnet-lite0"
FEATURE_SIZE = 96  # side of the images that features are computed from
BATCH_SIZE = 50
MAX_RANK_LOSS = 4.0  # ratio of the effective rank of held-out images to that of samples that is reported
MAX_INCREASE = 2.0  # of the distance over its lowest value that is reported


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to two sets of features, (images, width).

    |m1 - m2|² + tr(C1) + tr(C2) - 2 tr((C1 C2)^½). With C = A'A of centered features A, the last trace is the sum of
    the singular values of A1 A2', which are those of R1 R2' for the triangular factors R of A.
    """
    means = [features.double().mean(0) for features in (first, second)]
    centered = [
        (features.double() - mean) / (len(features) - 1) ** 0.5
        for features, mean in zip((first, second), means, strict=True)
    ]
    factors = [torch.linalg.qr(each, mode="r").R for each in centered]
    cross = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    total = sum(each.square().sum() for each in (means[0] - means[1], *centered))
    return max(0.0, float(total - 2 * cross))


def to_images(pixels: np.ndarray) -> Tensor:
    """Return images with values from 0 to 1, (images, channels, size, size), of uint8 pixels."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255


class SampleQuality:
    """Metrics of samples, compared with up to `max_images` held-out images. Raises DataError without the encoder."""

    def __init__(self, max_images: int):
        self.folder, self.max_images = resolve_encoder(ENCODER), max_images
        self.network: ImageEncoder | None = None
        self.reference: Tensor | None = None
        self.lowest = float("inf")

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        """Return features, float32 (images, width), of images with values from 0 to 1."""
        if self.network is None:
            self.network = image_encoder_from_pretrained(self.folder, FEATURE_SIZE, 3, 0.0).eval()
        parts = []
        for part in images.float().cpu().split(BATCH_SIZE):
            scaled = F.interpolate(part, (FEATURE_SIZE, FEATURE_SIZE), mode="bilinear", antialias=True)
            parts.append(self.network.embed_images(self.network.standardize(scaled.expand(-1, 3, -1, -1))))
        return torch.cat(parts)

    def measure(self, samples: Tensor, pixels: np.ndarray) -> dict[str, float]:
        """Return {"frechet_distance", "sample_rank"} of samples; report a collapse or a divergence in a line.

        pixels: held-out images, uint8 (images, size, size, channels).
        """
        if self.reference is None:
            self.reference = self.extract(to_images(pixels[take_evenly(range(len(pixels)), self.max_images)]))
        features = self.extract(samples)
        distance = frechet_distance(features, self.reference)
        rank, expected = (float(effective_rank(each)) for each in (features, self.reference))
        if not rank * MAX_RANK_LOSS > expected:
            warn_once(
                f"warning: the samples collapse: their effective rank is {rank:.1f}, that of held-out images"
                f" {expected:.1f}; try a lower train.lr or objective.loss=wgan-gp",
                "collapse of samples",
            )
        if distance > MAX_INCREASE * self.lowest:
            warn_once(
                f"warning: the samples diverge: their distance to held-out images rose from {self.lowest:.1f} to"
                f" {distance:.1f}; try a lower train.lr or fewer train.steps",
                "divergence of samples",
            )
        self.lowest = min(self.lowest, distance)
        return {"frechet_distance": distance, "sample_rank": rank}
