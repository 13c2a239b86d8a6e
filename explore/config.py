"""Configuration of exploring. `python -m explore --help` lists every key with its meaning."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from data.corpus.config import CorpusSource
from engine.config.schema import FileName, Section


class Explore(Section):
    """Map unlabeled texts, and list which to label first."""

    source: CorpusSource | None = None
    """Texts; `text=FILES` is short for source.files=FILES."""
    corpus: str | None = None
    """Texts of a corpus instead: a YAML file, or the name of one in configs/corpus."""
    task: str | None = None
    """Labeled task: a YAML file, or the name of one in configs/finetune. Its rows are texts too, and their labels are
    used."""
    model: str | None = None
    """Fine-tuned model for the next round, a run's folder or name: what it is unsure about is labeled first."""
    encoder: str = "minilm"
    """Encoder of the vectors: a folder, a built-in name or a hub name."""
    name: FileName | None = None
    """Name of the folder in out/explore; none: that of the task, the corpus or the file."""
    sentences: bool = False
    """Whether each sentence of a text is an input of its own."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Maximum text length in tokens for the vectors; the rest of a text is not read."""
    max_encoded: Annotated[int, Field(ge=100)] = 50_000
    """Number of inputs up to which the encoder reads all; of more, it reads a sample, and static vectors are used."""
    num_clusters: Annotated[int, Field(ge=2, le=1_000)] | None = None
    """Number of clusters; none: one for 100 inputs, from 8 to 200."""
    clusters: Literal["kmeans", "hdbscan", "som", "lda"] = "kmeans"
    """Method of the clusters: k-means; HDBSCAN, which leaves inputs out, for at most 20,000; a self-organizing map; or
    topics of words (LDA)."""
    layout: Literal["tsne", "pca", "umap", "som"] = "tsne"
    """Method of the positions on the map; umap needs the package umap-learn."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Cosine similarity from which two inputs are near duplicates."""
    queue_size: PositiveInt = 1_000
    """Number of inputs to list in the order to label."""
    num_suspects: NonNegativeInt = 10
    """Number of labels that look wrong to show again, at the head of the queue."""
    suggest: bool = True
    """Whether the queue has a suggested label, from the model, the labels or the names of the classes."""
    seed: NonNegativeInt = 0
    """Seed of all that is drawn; also of which inputs are reserved for measuring, so keep it between rounds."""

    help_first: ClassVar[tuple[str, ...]] = ("corpus", "task", "model", "encoder", "name", "source")
