"""Pretrain an encoder:  python -m pretrain configs/pretrain/default.yaml run=NAME train.steps=200 ...

The same command resumes the run. `--help` lists every key, `--dry-run` checks the configuration.
"""

from engine.cli import parse_config, run_command
from pretrain.config import Pretrain

EXAMPLE = "configs/pretrain/default.yaml run=mine train.steps=200"


def main(argv: list[str]) -> None:
    """Parse the configuration, then import and run the stage."""
    config = parse_config(Pretrain, argv, "pretrain", EXAMPLE)
    if config is not None:
        from data.cache import dry_run
        from pretrain.train import pretrain

        with dry_run(config.train.dry_run):
            pretrain(config)


if __name__ == "__main__":
    run_command(main)
