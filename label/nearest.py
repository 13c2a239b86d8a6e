"""The labeled rows that are most like a text: by the vectors that explore stored, or else by TF-IDF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.tasks.tfidf import tfidf_vectorizer

MAX_FITTED_TEXTS = 20_000
NUM_NEAREST = 3


class Nearest:
    """Finds labeled rows. texts: all there are; vectors: one for each text, (texts, width), if there are any."""

    def __init__(self, texts: list[str], vectors: np.ndarray | None = None):
        self.positions = {text: position for position, text in enumerate(texts)}
        self.vectors, self.vectorizer = vectors, None
        if vectors is None and texts:
            step = max(1, len(texts) // MAX_FITTED_TEXTS)
            sample = texts[::step]
            self.vectorizer = tfidf_vectorizer(sample, word_ngrams=(1, 1)).fit(sample)
        self.labeled: list[str] = []
        self.matrix = None

    def embed(self, texts: list[str]):
        """Return the vectors of texts, normalized, (texts, width)."""
        if self.vectors is None:
            return self.vectorizer.transform(texts)
        rows = np.asarray(self.vectors[[self.positions[text] for text in texts]], dtype=np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def find(self, text: str, labeled: list[str], count: int = NUM_NEAREST) -> list[str]:
        """Return the labeled texts most like another one, the nearest first, without those that share nothing."""
        if self.vectors is not None:
            labeled = [other for other in labeled if other in self.positions]
        labeled = [other for other in labeled if other != text]
        if not labeled or self.vectors is not None and text not in self.positions:
            return []
        if labeled != self.labeled:
            self.labeled, self.matrix = labeled, self.embed(labeled)
        product = self.matrix @ self.embed([text]).T
        scores = np.ravel(product.toarray() if hasattr(product, "toarray") else product)
        order = np.argsort(-scores, kind="stable")[:count]
        return [labeled[row] for row in order if scores[row] > 0]


def load_vectors(folder: Path | None, ids: list[int]) -> np.ndarray | None:
    """Return the vectors of the rows with these ids in a folder of explore; None if it has none of them all."""
    path = folder / "vectors.npy" if folder else None
    if path is None or not path.is_file():
        return None
    vectors = np.load(path, mmap_mode="r")
    return vectors[ids] if ids and max(ids) < len(vectors) else None
