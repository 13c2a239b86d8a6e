"""Pretrain an encoder:  python -m pretrain configs/pretrain/default.yaml run=NAME train.steps=200 ...

The same command again goes on where the run stopped. `--help` lists every key, `--check` only looks.
"""

from __future__ import annotations

from engine.command import command, configuration
from pretrain.config import Pretrain

EXAMPLE = "configs/pretrain/default.yaml run=mine train.steps=200"


def main(words: list[str]) -> None:
    """Parse, and only then load the stage itself."""
    config = configuration(Pretrain, words, "pretrain", EXAMPLE)
    if config is not None:
        from data.derived import looking
        from pretrain.train import pretrain
        with looking(config.train.check):
            pretrain(config)


if __name__ == "__main__":
    command(main)
