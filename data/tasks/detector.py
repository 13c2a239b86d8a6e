"""The file of an anomaly detector: vectors of normal rows, and the threshold of the score. No text, no image.

A row's vector joins the means of its hidden states in some layers, each of length 1, so that the length of a text or
the contrast of an image counts less (Mueller and Hein 2025). It is whitened by the covariance of the normal rows in
each layer, shrunk toward a multiple of the identity as far as their number requires (Ledoit and Wolf 2004). The score
is the distance to the mean of the normal rows, Mahalanobis' (Lee et al. 2018), or the mean distance to the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.tasks.novelty import NUM_NEIGHBORS, score_vectors
from engine.errors import DataError, first_line

if TYPE_CHECKING:
    from torch import Tensor

FILENAME = "normal_rows.safetensors"
MIN_STD = 1e-4  # of a coordinate, relative to the mean one, so that none is divided by zero


class Whitening(NamedTuple):
    """Vectors less `center`, times `projection`, have a mean of 0 and, but for shrinkage, a mean square length of 1.

    Each layer has the same share in it.
    """

    center: np.ndarray
    """float32 (width,)."""
    projection: np.ndarray
    """float32 (width, width)."""


def fit_whitening(layers: Sequence[np.ndarray]) -> Whitening:
    """Return the whitening of normal rows' vectors from those of each layer, (rows, width of the layer)."""
    from scipy.linalg import block_diag
    from sklearn.covariance import ledoit_wolf

    centers, projections = [], []
    for vectors in (layer.astype(np.float64) for layer in layers):
        center, std = vectors.mean(0), vectors.std(0)
        std = std.clip(MIN_STD * std.mean() or 1.0)
        covariance, _ = ledoit_wolf((vectors - center) / std, assume_centered=True)
        values, directions = np.linalg.eigh(covariance)
        scale = np.sqrt(values.clip(MIN_STD * (values.mean() or 1.0)) * len(center) * len(layers))
        centers.append(center)
        projections.append(directions / scale / std[:, None])
    return Whitening(np.concatenate(centers).astype(np.float32), block_diag(*projections).astype(np.float32))


@dataclass
class Detector:
    """Vectors of normal rows, and what a score is called."""

    layers: np.ndarray
    """Indices of the hidden states that a vector joins the means of, int64 (layers,)."""
    center: np.ndarray
    """As in `Whitening`."""
    projection: np.ndarray
    """As in `Whitening`."""
    vectors: np.ndarray
    """Whitened vectors of normal rows, float16 (rows, width)."""
    hashes: np.ndarray
    """`data.tasks.novelty.hash_inputs` of these rows, int64 (rows,)."""
    neighbors: np.ndarray
    """Number of nearest rows in a score, int64 (1,); 0: the distance is to their mean, which is 0."""
    threshold: np.ndarray
    """Score above which an input is anomalous, float32 (1,)."""
    false_alarms: np.ndarray
    """Share of normal rows that exceeds it at most, float32 (1,)."""
    scores: np.ndarray
    """Scores of held-out normal rows, ascending, float32 (rows,)."""

    def p_value(self, score: float) -> float:
        """Return the share of normal rows with a score at least as high, counting the input as one of them."""
        return (1 + len(self.scores) - int(np.searchsorted(self.scores, score, "left"))) / (1 + len(self.scores))

    def to_tensors(self, device: object) -> tuple[Tensor, Tensor, Tensor]:
        """Return center, projection and vectors as float32 tensors."""
        import torch

        arrays = (self.center, self.projection, self.vectors)
        return tuple(torch.from_numpy(array.astype(np.float32)).to(device) for array in arrays)

    def score_vectors(self, vectors: Tensor, tensors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the score of each vector, and its nearest normal rows, float32 (inputs, 1 + NUM_NEIGHBORS).

        tensors: as `to_tensors` returns them.
        """
        import torch

        center, projection, known = tensors
        whitened, count = (vectors - center) @ projection, int(self.neighbors[0])
        found = score_vectors(whitened, (torch.zeros_like(center), known), count or NUM_NEIGHBORS)
        return found if count else torch.cat([whitened.norm(dim=1, keepdim=True), found[:, 1:]], 1)


def save_detector(detector: Detector, folder: Path) -> None:
    """Write the file to a model's folder."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in vars(detector).items()}, folder / FILENAME)


def load_detector(folder: Path) -> Detector:
    """Read the file in a model's folder. Raises DataError for a missing or damaged one."""
    from safetensors.numpy import load_file

    path = folder / FILENAME
    try:
        arrays = load_file(path)
        detector = Detector(**{item.name: arrays[item.name] for item in fields(Detector)})
        width, rows = len(detector.center), len(detector.hashes)
        shapes = (detector.projection.shape, detector.vectors.shape)
        single = (detector.neighbors, detector.threshold, detector.false_alarms)
        if shapes != ((width, width), (rows, width)) or any(array.shape != (1,) for array in single):
            raise ValueError("its arrays do not fit together")
        if rows < max(NUM_NEIGHBORS, int(detector.neighbors[0])) or not np.isfinite(detector.projection).all():
            raise ValueError("it has too few rows, or values that are not finite")
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); repeat the run") from None
    return detector
