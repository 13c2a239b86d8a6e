"""Fine-tune an encoder.

    python -m finetune configs/finetune/sentiment.yaml run=NAME encoder=PATH task.num_examples=500 ...

The same command resumes an interrupted run. `--help` lists all keys, `--dry-run` only checks. `labels=FILE` instead of
a configuration finds the columns by name, and writes the configuration it stands for to the run's folder.
"""

from engine.cli import asks_for_help, flags_to_keys, parse_config, run_command
from finetune.config import Finetune

EXAMPLE = "configs/finetune/sentiment.yaml run=mine encoder=minilm task.num_examples=100"


def main(args: list[str]) -> None:
    """Parse the configuration before the slow imports, then run the stage."""
    from data.shortcut import expand_labels, saved_with_run

    shortcut = None if asks_for_help(args) else expand_labels(flags_to_keys(Finetune, args))
    args = shortcut.list_args() if shortcut else args
    config = parse_config(Finetune, args, "finetune", EXAMPLE)
    if config is not None:
        from data.cache import dry_run
        from engine.runs.run import RUNS_FOLDER
        from finetune.train import finetune

        with dry_run(config.train.dry_run), saved_with_run(shortcut, RUNS_FOLDER / config.run):
            finetune(config, flags_to_keys(type(config), args))


if __name__ == "__main__":
    run_command(main)
