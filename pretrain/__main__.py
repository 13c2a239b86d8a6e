"""Pretrain an encoder:  python -m pretrain configs/pretrain/default.yaml run=NAME train.steps=200 ...

The same command resumes the run. `--help` lists every key, `--dry-run` checks the configuration. `text=FILES` instead
of a corpus is text of your own; the configuration it stands for is written to the run's folder.
"""

from engine.cli import asks_for_help, flags_to_keys, parse_config, run_command
from pretrain.config import Pretrain

EXAMPLE = "configs/pretrain/default.yaml run=mine train.steps=200"


def main(argv: list[str]) -> None:
    """Parse the configuration, then import and run the stage."""
    from data.shortcut import expand_text, saved_with_run

    shortcut = None if asks_for_help(argv) else expand_text(flags_to_keys(Pretrain, argv))
    config = parse_config(Pretrain, shortcut.list_args() if shortcut else argv, "pretrain", EXAMPLE)
    if config is not None:
        from data.cache import dry_run
        from engine.runs.run import RUNS_FOLDER
        from pretrain.train import pretrain

        with dry_run(config.train.dry_run), saved_with_run(shortcut, RUNS_FOLDER / config.run, width=16):
            pretrain(config)


if __name__ == "__main__":
    run_command(main)
