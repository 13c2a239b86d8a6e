"""Inputs to measure on, and embeddings: the output of an exported encoder, handled like the problem types of tasks."""

from typing import NamedTuple

import numpy as np

from data.tasks.problem_types import ProblemType


class BenchmarkData(NamedTuple):
    """Inputs to measure on."""

    inputs: list
    """For each text a list of one string, or of two for a pair; or images."""
    labels: list | None
    """Label of each input; None if there are none."""
    max_length: int | None
    """Longest text in tokens; longer ones are truncated."""


def word_start_tokens(encoding, text: str) -> list[int | None]:
    """Return the first token of each word of a space-separated text; None for a word without one, or truncated."""
    starts = [0, *(position + 1 for position, character in enumerate(text) if character == " ")]
    return [encoding.char_to_token(start) for start in starts]


class Embedding(ProblemType):
    """The output of an encoder."""

    name, export_metric = "embedding", None
    example_title = "Embed {inputs}"
    example_code = """for text, vector in zip(sys.argv[1:], outputs):
    print(np.round(vector, 4).tolist())
"""

    def decode_outputs(self, outputs: list[np.ndarray], config: dict, word_starts: list | None = None) -> list:
        """Return the embeddings."""
        return list(outputs)

    def agreement(self, predictions: list[np.ndarray], reference: list[np.ndarray]) -> float:
        """Compute the mean cosine."""
        first, second = np.array(predictions), np.array(reference)
        return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean())


EMBEDDING = Embedding()
