"""Exploring texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from data.corpus.config import CorpusFile, CorpusSource
from data.sources.source import iter_located_rows
from data.sources.values import get_text
from data.tasks.splits import Example
from data.tasks.task import Task
from engine.config.loader import load_config
from explore import modalities
from explore.config import Explore

if TYPE_CHECKING:
    from explore.baselines import Baseline
    from explore.queue import Unlabeled
    from explore.steps import Steps
    from explore.vectors import TextEncoder

MAX_SAMPLE = 20_000  # texts that the encoder reads of those over max_encoded
SAMPLE_STREAM = 2**36 + 8


class Config(Explore):
    """Map unlabeled texts, and list which to label first."""

    source: CorpusSource | None = None
    """Texts; `text=FILES` is short for source.files=FILES."""
    encoder: str = "minilm"
    """Encoder of the vectors: a folder, a built-in name or a Hub name."""
    sentences: bool = False
    """Whether each sentence of a text is an input of its own."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Maximum text length in tokens for the vectors; the rest of a text is not read."""
    max_encoded: Annotated[int, Field(ge=100)] = 50_000
    """Number of inputs up to which the encoder reads all; of more, it reads a sample, and static vectors are used."""
    clusters: Literal["kmeans", "hdbscan", "som", "lda"] = "kmeans"
    """Method of the clusters: k-means; HDBSCAN, which leaves inputs out, for at most 20,000; a self-organizing map; or
    topics of words (LDA)."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Cosine similarity from which two inputs are near duplicates."""

    help_first: ClassVar[tuple[str, ...]] = Explore.help_first


class Modality(modalities.Modality):
    """Texts, and text encoders."""

    config: Config
    column = "text"

    def load_encoder(self, folder: Path) -> TextEncoder:
        """Return the encoder in a folder."""
        from explore.vectors import TextEncoder

        return TextEncoder(folder, self.config.max_length)

    def split(self, text: str) -> list[str]:
        """Return the inputs in a text: itself, or its sentences."""
        from data.corpus.sentence_dedup import split_sentences

        pieces = split_sentences(text) if self.config.sentences else [text]
        return [piece for piece in (part.strip() for part in pieces) if any(map(str.isalnum, piece))]

    def read_source(self) -> None:
        """Add the texts of the source. Raises DataError naming the row and column at fault."""
        for location, row in iter_located_rows(self.config.source):
            for text in self.split(get_text(row, self.config.source.text, location)):
                self.inputs.add(text)

    def read_corpus(self, path: Path) -> None:
        """Add the documents of a corpus, cleaned and deduplicated as its file has it."""
        from data.corpus.build import build_corpus
        from data.corpus.documents import iter_documents

        for document in iter_documents(build_corpus(load_config(CorpusFile, [str(path)]).corpus)):
            for text in self.split(document["text"]):
                self.inputs.add(text)

    def read_rows(self, task: Task) -> None:
        """Add the rows of a task."""
        sources = {"train": task.train} | ({"unlabeled": task.unlabeled} if task.unlabeled else {})
        self.inputs.add_rows([row for split, each in sources.items() for row in task.iter_rows(each, split)], {})

    def list_inputs(self, indices: np.ndarray) -> list[str]:
        """Return the texts."""
        return [self.inputs.keys[index] for index in indices]

    def list_examples(self, indices: np.ndarray) -> list[Example]:
        """Return the texts."""
        return [Example((text,), "") for text in self.list_inputs(indices)]

    @property
    def is_static(self) -> bool:
        """Whether there are more texts than the encoder reads."""
        return len(self.inputs.keys) > self.config.max_encoded

    def embed(self, key: str, unlabeled: Unlabeled, steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return vectors as all modalities do; of very many texts they are static, and the encoder reads a sample."""
        from data.cache import fingerprint
        from explore.choose import sample_indices
        from explore.vectors import distill, embed_in_parts, embed_static

        if not self.is_static:
            return super().embed(key, unlabeled, steps)
        encoder, config = self.encoder, self.config
        size = min(MAX_SAMPLE, config.max_encoded)
        sample = sample_indices(unlabeled.chosen, size, config.seed, SAMPLE_STREAM)
        labeled = np.flatnonzero([bool(label) for label in self.inputs.labels])
        encoded = np.unique(np.concatenate([sample, labeled, unlabeled.measure[: config.queue_size]]))
        part_key = [fingerprint([key, encoded.tolist()]), *encoder.key]
        vectors = embed_in_parts(self.list_inputs(encoded), part_key, encoder.embed, steps)
        tokens = steps.get("tokens", encoder.key, lambda: {"vectors": distill(encoder.folder)})
        texts = self.inputs.keys
        static = steps.get(
            "static", [key, *encoder.key], lambda: {"vectors": embed_static(texts, tokens["vectors"], encoder.folder)}
        )
        return static["vectors"], encoded, vectors

    def list_baselines(self, indices: np.ndarray) -> list[Baseline]:
        """List the encoder before pretraining and with random weights, its word vectors alone, and TF-IDF."""
        from explore.vectors import TextEncoder, embed_static, fit_tfidf, read_word_vectors

        texts, folder, seed = self.list_inputs(indices), self.encoder.folder, self.config.seed
        return [
            *super().list_baselines(indices),
            ("word vectors", lambda: embed_static(texts, read_word_vectors(folder), folder).astype(np.float32)),
            ("TF-IDF + SVD", lambda: fit_tfidf(self.inputs.keys, seed)(texts)),
            ("random weights", lambda: TextEncoder(folder, self.config.max_length, seed).embed(texts)),
        ]

    def predict_from_names(self, encoded: np.ndarray, vectors: np.ndarray, classes: list[str]) -> np.ndarray | None:
        """Return class probabilities from the names or descriptions of the classes."""
        from explore import labels

        descriptions = self.inputs.task.descriptions if self.inputs.task else {}
        return labels.predict_from_names(vectors, self.list_inputs(encoded), classes, descriptions, self.encoder)

    def name_clusters(self, clusters: np.ndarray, count: int, seed: int, kind: str) -> list[str]:
        """Return the words of each cluster."""
        from explore import names

        return names.name_clusters(self.inputs.keys, clusters, count, seed)
