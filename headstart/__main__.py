"""Run a command by its name:  headstart pretrain configs/pretrain/default.yaml run=NAME ...

Without a name, or with `--help`, all commands are listed. `headstart NAME --help` lists the keys of one.
"""

from importlib import import_module

from engine.cli import run_command
from engine.errors import ConfigError, suggest

COMMANDS = {
    "data": ("data.__main__", "turn raw text into training data, with a report"),
    "pretrain": ("pretrain.__main__", "pretrain an encoder on unlabeled text"),
    "explore": ("explore.__main__", "map inputs, and list which to label first"),
    "label": ("label.__main__", "label texts or images by keys"),
    "finetune": ("finetune.__main__", "fine-tune an encoder on a task"),
    "predict": ("predict.__main__", "predict the labels of a file, or of single texts"),
    "study": ("finetune.study.__main__", "measure how many labels pretraining saves"),
    "compare-objectives": ("compare.__main__", "compare objectives at equal compute"),
    "evaluate": ("pretrain.evaluate.__main__", "score the frozen embeddings of an encoder"),
    "export": ("publish.export.__main__", "convert a model to ONNX and int8; measure both"),
    "compare": ("publish.compare", "compare runs on one page"),
    "publish": ("publish.__main__", "check a finished run, upload it to the Hub"),
}
"""Module and summary of each command, in the order in which they are used."""


def list_commands() -> str:
    """Return the help: every command in one line."""
    lines = [f"  headstart {name:<20}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", "`headstart NAME --help` lists the keys of a command."])


def run_named(args: list[str]) -> None:
    """Run the command that the first argument names. Raises ConfigError if there is none of this name."""
    if not args or args[0] in ("-h", "--help"):
        print(list_commands())
        return
    name, *rest = args
    if name not in COMMANDS:
        raise ConfigError(f"{name}: no such command{suggest(name, COMMANDS)}")
    import_module(COMMANDS[name][0]).main(rest)


def main() -> None:
    """Run the command line."""
    run_command(run_named)


if __name__ == "__main__":
    main()
