"""Turn raw text into shards:  python -m data configs/corpus/reviews.yaml key=value ...

The same command again goes on where it was stopped, or says what there is. `--help` lists every key.
"""

from __future__ import annotations

from data.config import Prepare
from engine.command import command, configuration

EXAMPLE = "configs/corpus/reviews.yaml init=minilm"


def main(words: list[str]) -> None:
    """Parse, and only then load what does the work."""
    config = configuration(Prepare, words, "data", EXAMPLE)
    if config is not None:
        from data.prepare import prepare
        from data.report import summary
        print(summary(prepare(config.corpus, config.tokenizer, config.init, config.length)[-1]))


if __name__ == "__main__":
    command(main)
