"""Prepare raw text or images for pretraining:  python -m data configs/corpus/reviews.yaml key=value ...

Rerun the command to resume; when everything is built it prints the summary. `--help` lists every key.
"""

from data.config import Prepare
from engine.cli import parse_config, run_command
from engine.log import get_logger

logger = get_logger(__name__)

EXAMPLE = "configs/corpus/reviews.yaml init=minilm"


def main(argv: list[str]) -> None:
    """Parse the arguments, then import and run the preparation."""
    config = parse_config(Prepare, argv, "data", EXAMPLE)
    if config is None:
        return
    if config.modality == "images":
        from data.images.shards import describe_pixels, prepare_pixels

        logger.info(describe_pixels(prepare_pixels(config.corpus, config.pixels.size, config.pixels.channels)))
    else:
        from data.corpus.report import format_summary
        from data.prepare import prepare

        logger.info(format_summary(prepare(config.corpus, config.tokenizer, config.init, config.max_length)[-1]))


if __name__ == "__main__":
    run_command(main)
