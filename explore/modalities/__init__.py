"""What exploring needs of one kind of inputs, one file each. `modality=X` selects the file X.py.

A file defines `Config`, the schema of its configuration, and `Modality`. Nothing that takes long to import is imported
at the top level.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from data import modalities
from data.tasks.splits import normalize
from data.tasks.task import Task
from engine.config.loader import find_file
from engine.errors import DataError
from explore.config import CORPUS_FOLDER, Explore
from explore.inputs import Inputs

if TYPE_CHECKING:
    from PIL.Image import Image

    from explore.baselines import Baseline
    from explore.queue import Unlabeled
    from explore.steps import Steps

MIN_INPUTS = 10


class Modality:
    """The inputs of a configuration, and all that is done with their content.

    A file's class adds, besides what it overrides:

    load_encoder(folder)      the encoder in a folder: `key`, what its vectors depend on, and `embed(inputs, title)`,
                              which returns unit vectors, float32 (inputs, width), of what `list_inputs` returns
    read_source()             adds the inputs of the source to `inputs`
    read_corpus(path)         those of a corpus
    read_rows(task)           those of a task, with their labels
    list_inputs(indices)      what the encoder reads
    list_examples(indices)    what `data.classifier.Classifier.read` reads

    They raise ConfigError or DataError for what cannot be read.
    """

    column: ClassVar[str]
    """Column of the inputs in all files."""
    part_inputs: ClassVar[int] = 4_096
    """Inputs that a fine-tuned model reads at once."""

    def __init__(self, config: Explore, folder: Path):
        self.config, self.inputs = config, Inputs()
        self.shared = modalities.load_modality(config.modality)
        self.encoder = self.load_encoder(folder)

    def read(self, task: Task | None) -> Inputs:
        """Read all inputs. Raises DataError if there are too few."""
        if self.config.source:
            self.read_source()
        if self.config.corpus:
            self.read_corpus(find_file(self.config.corpus, CORPUS_FOLDER, "corpus"))
        if task:
            self.read_rows(task)
            self.inputs.task = task
        count, noun = len(self.inputs.keys), self.shared.inputs_noun
        if count < MIN_INPUTS:
            advice = f"label them all, or give at least {MIN_INPUTS}" if count else f"give at least {MIN_INPUTS}"
            raise DataError(f"{count} {noun} are too few for a map: {advice}")
        return self.inputs

    def embed(self, key: str, unlabeled: Unlabeled, steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (vectors of all inputs, indices of those that the encoder has read, their unit vectors).

        key: fingerprint of the inputs.
        """
        from explore.vectors import embed_in_parts

        everything = np.arange(len(self.inputs.keys))
        encoder = self.encoder
        vectors = embed_in_parts(self.list_inputs(everything), [key, *encoder.key], encoder.embed, steps)
        return vectors, everything, vectors

    @property
    def is_static(self) -> bool:
        """Whether the map is of other vectors than the encoder's."""
        return False

    def predict_from_names(self, encoded: np.ndarray, vectors: np.ndarray, classes: list[str]) -> np.ndarray | None:
        """Return class probabilities, (encoded, classes), from the names of the classes; None if they are no inputs."""
        return None

    def find_copies(self) -> np.ndarray:
        """Return pairs of equal inputs, int64 (2, pairs): by rounding, their vectors may be in different cells."""
        first: dict[str, int] = {}
        pairs = [(first.setdefault(normalize((key,)), index), index) for index, key in enumerate(self.inputs.keys)]
        return np.array([pair for pair in pairs if pair[0] < pair[1]], np.int64).reshape(-1, 2).T

    def name_clusters(self, clusters: np.ndarray, count: int, seed: int, kind: str) -> list[str]:
        """Return a name for each cluster, here its number and its most frequent label.

        clusters: int32 (inputs,), -1 for none; kind: `cluster` or `group`.
        """
        labels: dict[int, Counter[str]] = {}
        for number, label in zip(clusters.tolist(), self.inputs.labels, strict=True):
            if label:
                labels.setdefault(number, Counter())[label] += 1
        most = {number: f": {found.most_common(1)[0][0]}" for number, found in labels.items()}
        return [f"{kind} {number}{most.get(number, '')}" for number in range(count)]

    def list_baselines(self, indices: np.ndarray) -> list[Baseline]:
        """List simpler vectors of inputs, to compare the encoder's with, and the weights that it was trained from."""
        from data.encoders import initial_encoder

        if (initial := initial_encoder(self.encoder.folder)) is None:
            return []
        return [("before pretraining", lambda: self.load_encoder(initial).embed(self.list_inputs(indices)))]

    def draw(self, index: int, side: int) -> Image | None:
        """Return the picture of an input, a square; None for one without."""
        return None

    def save_files(self, indices: Iterable[int], folder: Path) -> dict[int, str]:
        """Write those of the inputs that have no file of their own to a folder; return their paths."""
        return {}


def load_modality(config: Explore, folder: Path) -> Modality:
    """Return the modality of a configuration. folder: of the encoder."""
    return importlib.import_module(f"explore.modalities.{config.modality}").Modality(config, folder)
