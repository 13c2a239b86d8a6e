"""What the pretraining is worth in labels:  python -m finetune.study configs/finetune/sentiment.yaml encoder=PATH ...

Ours beside the same network without our pretraining, random weights, a linear probe and TF-IDF, with the same labels
and test rows. The same command again goes on where it was stopped. `--help` lists every key.
"""

from __future__ import annotations

from engine.cli import parse_config, run_command
from finetune.study.config import Study

EXAMPLE = "configs/finetune/sentiment.yaml encoder=minilm study.shots=[8,32] study.seeds=2"


def main(args: list[str]) -> None:
    """Parse, and only then load what does the work."""
    config = parse_config(Study, args, "finetune.study", EXAMPLE)
    if config is not None:
        from finetune.study.run import run_study

        run_study(config, args)


if __name__ == "__main__":
    run_command(main)
