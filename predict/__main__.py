"""Predict the labels of a file, a dataset or single texts.

    python -m predict model=out/runs/sentiment file=all.csv precision=0.95 ...
    python -m predict model=out/runs/sentiment "a film to remember"

The same command resumes an interrupted one. `--help` lists all keys.
"""

import re

from engine.cli import is_switch, parse_config, run_command
from predict.config import Predict

EXAMPLE = "model=out/runs/sentiment file=all.csv precision=0.95"


def quote_texts(args: list[str]) -> list[str]:
    """Return the arguments with `file=X` as a key of the source; what is no argument is marked as a text."""
    result, texts = [], []
    for flag, arg in zip([None, *args], args, strict=False):
        key = (flag or "")[2:].replace("-", "_")
        is_value = bool(flag) and flag.startswith("--") and "=" not in flag and not is_switch(Predict, key)
        if arg.startswith("-") and " " not in arg or is_value:
            result.append(arg)
        elif arg.startswith("file="):
            result.append(f"source.files={quote(arg.removeprefix('file='))}")
        elif re.match(r"[\w.]+=", arg) or arg.endswith((".yaml", ".yml")):
            result.append(arg)
        else:
            texts.append(arg)
    return [*result, *([f"texts=[{', '.join(map(quote, texts))}]"] if texts else [])]


def quote(text: str) -> str:
    """Return a text as a string of YAML."""
    return "'" + text.replace("'", "''") + "'"


def main(args: list[str]) -> None:
    """Parse the configuration before the slow imports, then run the command."""
    config = parse_config(Predict, quote_texts(args), "predict", EXAMPLE)
    if config is not None:
        from predict.run import predict

        predict(config)


if __name__ == "__main__":
    run_command(main)
