"""Configuration of the evaluation of embeddings."""

from typing import Annotated

from pydantic import Field, PositiveInt

from data.sources.source import Source
from engine.config.schema import Section


class STSSource(Source):
    """Sentence pairs with human similarity scores (STS Benchmark; Cer et al. 2017)."""

    first: str = "sentence1"
    """Column of the first sentence."""
    second: str = "sentence2"
    """Column of the second sentence."""
    score: str = "score"
    """Column of the score; higher is more similar."""


class Evaluate(Section):
    """Evaluate an encoder's embeddings without training it."""

    encoder: str
    """A built-in name (minilm), a folder or a Hub name."""
    task: str | None = "configs/finetune/sentiment.yaml"
    """File with the `task` to probe; none: no probes. The default for an encoder of images is the task solar."""
    num_examples: list[PositiveInt] = [100, 500]
    """Numbers of training labels of the linear probe."""
    seeds: PositiveInt = 5
    """Random samples of training labels averaged per number."""
    num_neighbors: PositiveInt = 10
    """Neighbors in the k-NN probe, which uses all training labels."""
    sts: STSSource | None = None
    """Scored sentence pairs; none: no similarity metric."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Maximum text length in tokens; longer texts are truncated."""
