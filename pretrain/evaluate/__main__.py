"""What an encoder's text vectors are worth before anything is taught:  python -m pretrain.evaluate encoder=PATH ...

Likeness of sentences as people scored it, and two probes of a labelled task, a linear one and the nearest neighbours,
held against two floors measured in the same run: TF-IDF + truncated SVD, and the same network with random weights.
`--help` lists every key. The figures are also written to out/evaluations/.
"""

from __future__ import annotations

from engine.cli import parse_config, run_command
from pretrain.evaluate.config import Evaluate

EXAMPLE = "encoder=out/runs/default/encoder likeness.files=stsb/test.csv"


def main(argv: list[str]) -> None:
    """Parse, and only then load what does the work."""
    config = parse_config(Evaluate, argv, "pretrain.evaluate", EXAMPLE)
    if config is not None:
        from pretrain.evaluate.embeddings import evaluate

        evaluate(config)


if __name__ == "__main__":
    run_command(main)
