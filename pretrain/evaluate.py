"""What an encoder's text vectors are worth before anything is taught:  python -m pretrain.evaluate encoder=PATH ...

Likeness of sentences as people scored it, and two probes of a labelled task, a linear one and the nearest neighbours,
held against two floors measured in the same run: TF-IDF + truncated SVD, and the same network with random weights.
`--help` lists every key. The figures are also written to out/evaluations/.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from data.sources import Source
from engine.command import command, configuration
from engine.config import Section

EXAMPLE = "encoder=out/runs/default/encoder likeness.files=stsb/test.csv"


class Likeness(Source):
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
    labels: list[PositiveInt] = [100, 500]
    """How many labels the linear probe learns from."""
    seeds: PositiveInt = 5
    """How many draws of that many labels are averaged."""
    neighbours: PositiveInt = 10
    """Neighbours that vote in the other probe, which knows all training labels."""
    likeness: Likeness | None = None
    """Scored pairs of sentences; none: not measured."""
    length: Annotated[int, Field(ge=4)] = 256
    """Longest text in tokens; the rest is cut off."""


def main(words: list[str]) -> None:
    """Parse, and only then load what does the work."""
    config = configuration(Evaluate, words, "pretrain.evaluate", EXAMPLE)
    if config is not None:
        from pretrain.probes import evaluate
        evaluate(config)


if __name__ == "__main__":
    command(main)
