"""Map unlabeled texts or images, and list which to label first.

    python -m explore text='notes/*.txt' [encoder=out/runs/mine]
    python -m explore images=photos
    python -m explore task=mine model=out/runs/mine

The same command resumes an interrupted one. `--help` lists all keys.
"""

from engine.cli import parse_config, run_command
from explore.config import Explore

EXAMPLE = "text='notes/*.txt' encoder=minilm"


def expand(args: list[str]) -> list[str]:
    """Return the arguments with `text=FILES` and `images=FILES` as keys. Raises DataError if no column is found."""
    import json

    from data.shortcut import expand_text, name_run, take_argument

    images, rest = take_argument(args, "images")
    if images is not None:
        name = [] if any(arg.startswith(("name=", "task=")) for arg in rest) else [f"name={name_run(images)}"]
        return ["modality=images", f"source.files={json.dumps(images)}", *name, *rest]
    shortcut = expand_text(args)
    if shortcut is None:
        return args
    tree = dict(shortcut.tree)
    source, run = tree.pop("corpus")["sources"][0], tree.pop("run")
    tree = {**({} if "task" in tree else {"name": run}), **tree, "source": source}
    return [f"{key}={json.dumps(value)}" for key, value in tree.items()]


def main(args: list[str]) -> None:
    """Parse the configuration before the slow imports, then run the command."""
    config = parse_config(Explore, expand(args), "explore", EXAMPLE)
    if config is not None:
        from explore.run import explore

        explore(config)


if __name__ == "__main__":
    run_command(main)
