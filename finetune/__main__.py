"""Fine-tune an encoder:  python -m finetune configs/finetune/sentiment.yaml run=NAME encoder=PATH task.labels=500 ...

The same command again goes on where the run stopped. `--help` lists every key.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads make a busy machine many times slower
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from engine.config import load, usage  # noqa: E402
from engine.errors import command  # noqa: E402
from finetune.config import Finetune  # noqa: E402


def main(words: list[str]) -> None:
    """Parse, and only then load what is heavy."""
    if not words or {"-h", "--help"} & set(words):
        print(usage(Finetune, "finetune", "configs/finetune/sentiment.yaml run=mine encoder=minilm task.labels=100"))
        return
    config = load(Finetune, words)
    from finetune.train import finetune
    finetune(config)


if __name__ == "__main__":
    command(main)
