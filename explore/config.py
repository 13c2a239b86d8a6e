"""Configuration of exploring. `python -m explore --help` lists every key with its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from data.sources.source import Source
from engine.config.loader import locate_file, read_args
from engine.config.schema import FileName, PluginName, Section, choose_plugin_schema

CORPUS_FOLDER, TASK_FOLDER = Path("configs/corpus"), Path("configs/finetune")


def find_modality(tree: dict) -> str:
    """Return the modality that arguments name, or else that of their task or corpus; text by default."""
    if "modality" in tree:
        return str(tree["modality"])
    for key, folder in (("task", TASK_FOLDER), ("corpus", CORPUS_FOLDER)):
        path = locate_file(str(tree.get(key)), folder)
        if tree.get(key) and path.is_file():
            found = read_args([str(path)])
            found = found.get("task") if key == "task" else found
            if isinstance(found, dict) and "modality" in found:
                return str(found["modality"])
    return "text"


class Explore(Section):
    """Map unlabeled inputs, and list which to label first."""

    modality: PluginName("explore.modalities") = "text"
    """Kind of the inputs; found in the task or the corpus."""
    source: Source | None = None
    """Inputs; `text=FILES` and `images=FILES` are short for source.files=FILES."""
    corpus: str | None = None
    """Inputs of a corpus instead: a YAML file, or the name of one in configs/corpus."""
    task: str | None = None
    """Labeled task: a YAML file, or the name of one in configs/finetune. Its rows are inputs too, and their labels are
    used."""
    model: str | None = None
    """Fine-tuned model for the next round, a run's folder or name: what it is unsure about is labeled first."""
    encoder: str = ""
    """Encoder of the vectors: a folder, a built-in name or a Hub name."""
    name: FileName | None = None
    """Name of the folder in out/explore; none: that of the task, the corpus or the file."""
    num_clusters: Annotated[int, Field(ge=2, le=1_000)] | None = None
    """Number of clusters; none: one for 100 inputs, from 8 to 200."""
    clusters: Literal["kmeans", "hdbscan", "som"] = "kmeans"
    """Method of the clusters: k-means; HDBSCAN, which leaves inputs out, for at most 20,000; or a self-organizing
    map."""
    layout: Literal["tsne", "pca", "umap", "som"] = "tsne"
    """Method of the positions on the map; umap needs the package umap-learn."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Cosine similarity from which two inputs are near duplicates."""
    queue_size: PositiveInt = 1_000
    """Number of inputs to list in the order to label."""
    num_suspects: NonNegativeInt = 10
    """Number of labels that look wrong to show again, at the head of the queue."""
    suggest: bool = True
    """Whether the queue has a suggested label, from the model, the labels or the class names."""
    baselines: bool = True
    """Whether to measure the map of simpler vectors too, which shows what pretraining did to it."""
    seed: NonNegativeInt = 0
    """Seed of all that is drawn; also of which inputs are reserved for measuring, so keep it between rounds."""

    help_first: ClassVar[tuple[str, ...]] = ("corpus", "task", "model", "encoder", "name", "source")

    @classmethod
    def choose_schema(cls, tree: dict) -> type[Section]:
        """Return the schema of the modality."""
        if cls is not Explore:
            return cls
        return choose_plugin_schema("explore.modalities", "modality", {"modality": find_modality(tree)})
