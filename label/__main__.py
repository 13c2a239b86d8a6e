"""Label texts or images by keys, in the browser or the terminal.

    python -m label task=my-labels num_answers=64 ...
    python -m label file=texts.csv terminal=true

Every answer is appended to labels.csv; the same command goes on where it ended. `--help` lists all keys.
"""

import json

from engine.cli import parse_config, run_command
from label.config import Label

EXAMPLE = "task=my-labels num_answers=64 terminal=true"


def expand(args: list[str]) -> list[str]:
    """Return the arguments with `file=X` as a key of the source, and a YAML file alone as the task."""
    expanded = []
    for arg in args:
        if arg.startswith("file="):
            expanded.append(f"source.files={json.dumps(arg.removeprefix('file='), ensure_ascii=False)}")
        elif arg.endswith((".yaml", ".yml")) and "=" not in arg:
            expanded.append(f"task={arg}")
        else:
            expanded.append(arg)
    return expanded


def main(args: list[str]) -> None:
    """Parse the configuration before the slow imports, then run the command."""
    config = parse_config(Label, expand(args), "label", EXAMPLE, positional="task")
    if config is not None:
        from label.run import label

        label(config)


if __name__ == "__main__":
    run_command(main)
