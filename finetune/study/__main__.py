"""Measure what pretraining is worth in labels:  python -m finetune.study configs/finetune/sentiment.yaml encoder=...

Compares the encoder with the same network without its pretraining, random weights, a linear probe and TF-IDF, on the
same labels and test rows. Rerun the command to resume. `--help` lists every key.
"""

from engine.cli import parse_config, run_command
from finetune.study.config import Study

EXAMPLE = "configs/finetune/sentiment.yaml encoder=minilm study.shots=[8,32] study.seeds=2"


def main(args: list[str]) -> None:
    """Run the command; heavy modules are imported only after the arguments are valid."""
    config = parse_config(Study, args, "finetune.study", EXAMPLE)
    if config is not None:
        from finetune.study.run import run_study

        run_study(config, args)


if __name__ == "__main__":
    run_command(main)
