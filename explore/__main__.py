"""Map unlabeled texts or images, and list which to label first.

    python -m explore text='notes/*.txt' [encoder=out/runs/mine]
    python -m explore images=photos
    python -m explore model=out/runs/mine

The same command resumes an interrupted one. `--help` lists all keys.
"""

from pathlib import Path

from engine.cli import asks_for_help, flags_to_keys, parse_config, run_command
from explore.config import TASK_FOLDER, Explore

EXAMPLE = "text='notes/*.txt' encoder=minilm"
INPUT_KEYS = ("text=", "images=", "corpus=", "task=", "source", "modality=")


def expand_model(args: list[str]) -> list[str]:
    """Return the arguments with the task of the model's run, if these have no inputs: what the next round reads.

    The task is that of configs/finetune, if there is one of its name. Of labels without a configuration it is that of
    the run, and the map is that of the labels' name, if there is one: make label writes labels/NAME.csv. Only runs of
    this folder are read: the configuration in a downloaded one may name any file. Raises DataError for a run that is
    not there.
    """
    from data.cache import OUTPUT_DIR
    from data.shortcut import name_run, take_argument
    from engine.config.loader import read_args
    from engine.errors import DataError, list_siblings, suggest

    model, _ = take_argument(args, "model")
    if not model or any(arg.removeprefix("--").startswith(INPUT_KEYS) for arg in args):
        return args
    folder = OUTPUT_DIR / "runs" / model if "/" not in model else Path(model)
    path = (folder.parent if folder.name == "model" else folder) / "config.yaml"
    is_own = path.resolve().is_relative_to((OUTPUT_DIR / "runs").resolve())
    if not folder.exists() and not Path(model).is_dir() and folder.is_relative_to(OUTPUT_DIR / "runs"):
        raise DataError(f"{folder}: no such folder{suggest(folder.name, list_siblings(folder))}")
    task = read_args([str(path)]).get("task") if is_own and path.is_file() else None
    if not isinstance(task, dict):
        return args
    if (TASK_FOLDER / f"{task['name']}.yaml").is_file():
        return [*args, f"task={task['name']}"]
    files = (task.get("train") or {}).get("files")
    name = name_run(files) if isinstance(files, str) else task["name"]
    is_mapped = (OUTPUT_DIR / "explore" / name / "report.json").is_file()
    is_named = any(arg.removeprefix("--").startswith("name=") for arg in args)
    return [*args, f"task={path}", *([f"name={name}"] if is_mapped and not is_named else [])]


def expand(args: list[str]) -> list[str]:
    """Return the arguments with `text=FILES`, `images=FILES` and `model=RUN` alone as keys.

    Raises DataError if no column is found, and ConfigError for what is no argument.
    """
    import json
    from functools import partial

    from data.shortcut import expand_text, name_run, take_argument
    from engine.config.loader import is_yaml, read_args

    to_yaml = partial(json.dumps, ensure_ascii=False)  # YAML does not join the two escapes of an emoji again
    args = expand_model(args)
    images, rest = take_argument(args, "images")
    if images is not None:
        name = [] if any(arg.startswith(("name=", "task=")) for arg in rest) else [f"name={name_run(images)}"]
        return ["modality=images", f"source.files={to_yaml(images)}", *name, *rest]
    path, rest = take_argument(args, "text")
    if path is None or asks_for_help(rest):
        return args
    keys = flags_to_keys(Explore.choose_schema({}), rest)
    files = [key for key in keys if is_yaml(key)]
    given = read_args(files)
    options = [f"source={to_yaml(given.get('source') or {})}", *keys, f"source.files={to_yaml(path)}"]
    tree = dict(expand_text([f"text={path}", *options]).tree)
    source, run = tree.pop("corpus")["sources"][0], tree.pop("run")
    is_named = bool({"name", "task"} & {*given, *tree})
    tree = {**({} if is_named else {"name": run}), **tree, "source": source}
    return [*files, *(f"{key}={to_yaml(value)}" for key, value in tree.items())]


def main(args: list[str]) -> None:
    """Parse the configuration before the slow imports, then run the command."""
    config = parse_config(Explore, expand(args), "explore", EXAMPLE)
    if config is not None:
        from explore.run import explore

        explore(config)


if __name__ == "__main__":
    run_command(main)
