"""Compare pretraining objectives at equal compute.

    python -m compare corpus=reviews objectives=[mlm,contrastive] budget=120

Trains each objective for the same CPU seconds from the same start, then measures the encoders by a linear probe and by
fine-tuning on few labels. Rerun the command to resume. `--help` lists every key.
"""

from compare.config import Compare
from engine.cli import parse_config, run_command

EXAMPLE = "corpus=reviews objectives=[mlm,contrastive] budget=120 seeds=3"


def main(args: list[str]) -> None:
    """Run the command; heavy modules are imported only after the arguments are valid."""
    config = parse_config(Compare, args, "compare", EXAMPLE)
    if config is not None:
        from compare.run import compare

        compare(config, args)


if __name__ == "__main__":
    run_command(main)
