"""TODO."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from data.sources.source import Source
from engine.config.schema import Section


class STSSource(Source):
    """Pairs of sentences and how alike people found them (the STS Benchmark; Cer et al. 2017)."""

    first: str = "sentence1"
    """The column of the one sentence."""
    second: str = "sentence2"
    """The column of the other."""
    score: str = "score"
    """The column of the score, higher is more alike."""


class Evaluate(Section):
    """Measure an encoder's text vectors, without training it."""

    encoder: str
    """A built-in name (minilm), a folder, a hub name."""
    task: str | None = "configs/finetune/sentiment.yaml"
    """The file whose `task` is probed; none: no probes."""
    num_examples: list[PositiveInt] = [100, 500]
    """How many labels the linear probe learns from."""
    seeds: PositiveInt = 5
    """How many draws of that many labels are averaged."""
    num_neighbors: PositiveInt = 10
    """Neighbours that vote in the other probe, which knows all training labels."""
    sts: STSSource | None = None
    """Scored pairs of sentences; none: not measured."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Longest text in tokens; the rest is cut off."""
