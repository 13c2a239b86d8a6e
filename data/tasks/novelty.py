"""Find inputs unlike the training rows: by the distance to the nearest of them, between vectors of hidden states.

The score is the mean distance to the nearest neighbors (Ramaswamy et al. 2000; Sun et al. 2022), between states of a
layer in the upper middle: lower ones depend on single words, and the last ones only on what decides between the labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.tasks.splits import Example, normalize
from engine.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

NUM_DISTANCES = 5  # nearest rows; their mean distance is the score
NUM_NEIGHBORS = 3  # nearest rows to show
MAX_VECTORS = 1_000
EXPECTED_SHARE = 0.02  # of rows like the training rows that are called unlike them
PREFIX = "novelty_"


def hash_inputs(examples: list[Example]) -> np.ndarray:
    """Return a number for the text of each example, int64, by which a row is found again."""
    digests = [hashlib.sha256(normalize(row.texts).encode("utf-8", "replace")).digest()[:8] for row in examples]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


@dataclass
class Novelty:
    """Vectors of training rows, and the distance from which an input is unlike them."""

    center: np.ndarray
    """Mean of the vectors, float32 (width,)."""
    vectors: np.ndarray
    """Vectors of training rows less the mean, float16 (rows, width)."""
    hashes: np.ndarray
    """`hash_inputs` of these rows, int64 (rows,)."""
    threshold: np.ndarray
    """Float32 (1,)."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by their name in the file."""
        return {f"{PREFIX}{name}": value for name, value in vars(self).items()}

    def to_tensors(self, device: object) -> tuple[Tensor, Tensor]:
        """Return center and vectors as float32 tensors."""
        import torch

        arrays = (self.center, self.vectors)
        return tuple(torch.from_numpy(array.astype(np.float32)).to(device) for array in arrays)


def score_vectors(vectors: Tensor, tensors: tuple[Tensor, Tensor], num_distances: int = NUM_DISTANCES) -> Tensor:
    """Return the score of each vector and its nearest training rows, float32 (inputs, 1 + NUM_NEIGHBORS).

    tensors: as `to_tensors` returns them. num_distances: number of distances in the score.
    """
    import torch

    center, known = tensors
    distances = torch.cdist(vectors - center, known, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(max(num_distances, NUM_NEIGHBORS), largest=False)
    score = nearest.values[:, :num_distances].mean(1, keepdim=True)
    return torch.cat([score, nearest.indices[:, :NUM_NEIGHBORS].float()], 1)


def find_nearest(vectors: np.ndarray, novelty: Novelty) -> list[list[int]]:
    """Return the nearest training rows of each vector, float32 (inputs, width)."""
    import torch

    scored = score_vectors(torch.from_numpy(vectors), novelty.to_tensors("cpu"))
    return [[int(index) for index in row[1:]] for row in scored.tolist()]


def fit_novelty(vectors: np.ndarray, hashes: np.ndarray, held_out: np.ndarray) -> Novelty | None:
    """Return what to compare inputs with; None for too few vectors.

    vectors: of training rows, float32 (rows, width); held_out: of other rows like them, which set the threshold.
    """
    import torch

    if len(vectors) < 2 * NUM_DISTANCES or not len(held_out):
        return None
    center = vectors.mean(0)
    novelty = Novelty(center, (vectors - center).astype(np.float16), hashes, np.zeros(1, np.float32))
    scores = score_vectors(torch.from_numpy(held_out), novelty.to_tensors("cpu"))[:, 0].numpy()
    novelty.threshold = np.quantile(scores, [1 - EXPECTED_SHARE]).astype(np.float32)
    return novelty


def load_novelty(arrays: dict[str, np.ndarray]) -> Novelty | None:
    """Return what `to_arrays` returned, None if a file has none of it. Raises DataError if it does not fit together."""
    names = list(Novelty.__dataclass_fields__)
    if not all(f"{PREFIX}{name}" in arrays for name in names):
        return None
    novelty = Novelty(**{name: arrays[f"{PREFIX}{name}"] for name in names})
    fits = novelty.vectors.shape == (len(novelty.hashes), *novelty.center.shape) and novelty.threshold.shape == (1,)
    if not fits or len(novelty.hashes) < NUM_DISTANCES or not np.isfinite(novelty.center).all():
        raise DataError(f"the vectors of training rows, {novelty.vectors.shape}, do not fit together")
    return novelty
