"""Fine-tune an encoder:  python -m finetune configs/finetune/sentiment.yaml run=NAME encoder=PATH task.labels=500 ...

The same command again goes on where the run stopped. `--help` lists every key, `--check` only looks.
"""

from __future__ import annotations

from engine.command import command, configuration
from finetune.config import Finetune

EXAMPLE = "configs/finetune/sentiment.yaml run=mine encoder=minilm task.labels=100"


def main(words: list[str]) -> None:
    """Parse, and only then load the stage itself."""
    config = configuration(Finetune, words, "finetune", EXAMPLE)
    if config is not None:
        from data.derived import looking
        from finetune.train import finetune
        with looking(config.train.check):
            finetune(config)


if __name__ == "__main__":
    command(main)
