"""Positions on the map: t-SNE of landmarks with all others next to those that they are nearest to, PCA, UMAP or a SOM.

Near positions mean similar texts; how far apart two islands are means nothing.
"""

from __future__ import annotations

import numpy as np

from engine.errors import ConfigError
from explore.choose import sample_indices
from explore.cluster import SOM_SIDE, fit_som

MAX_LANDMARKS = 20_000
NUM_NEAREST = 5  # landmarks that an input is put between
PERPLEXITY = 30
ROWS = 4_096
LANDMARK_STREAM, JITTER_STREAM = 2**36 + 6, 2**36 + 7


def fit_tsne(points: np.ndarray, seed: int) -> np.ndarray:
    """Return positions of points by t-SNE from their first two components, (points, 2); equal ones are one place."""
    from openTSNE import TSNE

    if np.ptp(points, axis=0).max() < 1e-6:  # openTSNE crashes
        return np.zeros((len(points), 2))
    start = points[:, :2] if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])
    start = start / max(1e-12, start[:, 0].std()) * 1e-4
    perplexity = max(2, min(PERPLEXITY, (len(points) - 1) // 3))
    model = TSNE(perplexity=perplexity, initialization=start.astype(np.float64), random_state=seed, n_jobs=1)
    return np.asarray(model.fit(points.astype(np.float64)))


def fit_umap(points: np.ndarray, seed: int) -> np.ndarray:
    """Return positions of points by UMAP, (points, 2). Raises ConfigError if it is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        raise ConfigError("layout=umap needs the package umap-learn (pip install umap-learn)") from None
    return UMAP(random_state=seed).fit_transform(points)


def place_others(
    points: np.ndarray, cells: np.ndarray, landmarks: np.ndarray, positions: np.ndarray, seed: int
) -> np.ndarray:
    """Return the positions of all points, (points, 2): between the nearest landmarks of the same cell.

    landmarks: indices of the points that have positions.
    """
    jitter = np.random.Generator(np.random.Philox(key=[seed, JITTER_STREAM])).normal(size=(len(points), 2))
    placed = np.empty((len(points), 2))
    spread = 0.004 * np.ptp(positions, axis=0)
    for cell in np.unique(cells):
        members, known = np.flatnonzero(cells == cell), np.flatnonzero(cells[landmarks] == cell)
        known = known if len(known) else np.arange(len(landmarks))
        targets, kept = points[landmarks[known]], min(NUM_NEAREST, len(known))
        for start in range(0, len(members), ROWS):
            rows = members[start : start + ROWS]
            distances = np.square(targets).sum(1) - 2 * points[rows] @ targets.T
            nearest = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
            placed[rows] = np.median(positions[known[nearest]], axis=1) + spread * jitter[rows]
    placed[landmarks] = positions
    return placed


def make_layout(points: np.ndarray, cells: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Return the position of each input, float32 (inputs, 2), from -1 to 1.

    points: by principal components; cells: of similar inputs, int32 (inputs,).
    """
    if method == "pca":
        positions = points[:, :2] if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])
    elif method == "som":
        units, _ = fit_som(points, SOM_SIDE, seed)
        jitter = np.random.Generator(np.random.Philox(key=[seed, JITTER_STREAM])).uniform(-0.4, 0.4, (len(points), 2))
        positions = np.column_stack([units % SOM_SIDE, units // SOM_SIDE]) + jitter
    else:
        landmarks = sample_indices(np.arange(len(points)), MAX_LANDMARKS, seed, LANDMARK_STREAM)
        fit = fit_tsne if method == "tsne" else fit_umap
        positions = place_others(points, cells, landmarks, fit(points[landmarks], seed), seed)
    low, high = positions.min(0), positions.max(0)
    return (2 * (positions - low) / np.maximum(high - low, 1e-12) - 1).astype(np.float32)
