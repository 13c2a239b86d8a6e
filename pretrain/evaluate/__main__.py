"""Evaluate the frozen embeddings of an encoder:  python -m pretrain.evaluate encoder=PATH ...

Computes semantic textual similarity, and the accuracy of a linear and a k-NN probe of a labeled task, compared with
TF-IDF + truncated SVD and with the same network with random weights. Results are also written to out/evaluations/.
"""

from engine.cli import parse_config, run_command
from pretrain.evaluate.config import Evaluate

EXAMPLE = "encoder=out/runs/default/encoder sts.files=stsb/test.csv"


def main(argv: list[str]) -> None:
    """Parse the configuration, then import and run the evaluation."""
    config = parse_config(Evaluate, argv, "pretrain.evaluate", EXAMPLE)
    if config is not None:
        from pretrain.evaluate.embeddings import evaluate

        evaluate(config)


if __name__ == "__main__":
    run_command(main)
