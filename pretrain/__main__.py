"""Pretrain an encoder:  python -m pretrain configs/pretrain/default.yaml run=NAME train.steps=200 ...

The same command again goes on where the run stopped. `--help` lists every key.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads make a busy machine many times slower
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from engine.config import load, usage  # noqa: E402
from engine.errors import command  # noqa: E402
from pretrain.config import Pretrain  # noqa: E402


def main(words: list[str]) -> None:
    """Parse, and only then load what is heavy."""
    if not words or {"-h", "--help"} & set(words):
        print(usage(Pretrain, "pretrain", "configs/pretrain/default.yaml run=mine train.steps=200"))
        return
    config = load(Pretrain, words)
    from pretrain.train import pretrain
    pretrain(config)


if __name__ == "__main__":
    command(main)
