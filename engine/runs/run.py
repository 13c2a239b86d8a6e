"""A run's folder: the resolved configuration, the log, and the versions and fingerprints of its inputs.

out/runs/NAME/   config.yaml  log.jsonl  step-*/  best/  encoder/ or model/  metrics.json
"""

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path

import yaml

from engine.config.loader import YamlLoader, dump_config, read_yaml
from engine.config.renamed import find_old_key
from engine.config.schema import Section, resumable_keys
from engine.errors import ConfigError
from engine.files import is_disk_full, read_json, write_json, write_text
from engine.runs import trackers
from engine.runs.trackers import flatten
from engine.system.lock import acquire

RUNS_FOLDER = Path("out/runs")
KEYS_FROM_DATA = {"train.batch_size", "train.steps"}
"""Keys that may be resolved by the amount of data."""
VERSIONED_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "peft", "numpy")


def package_versions(packages: tuple[str, ...] = VERSIONED_PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


class Run:
    """One run's folder, out/runs/NAME or `folder` for a part of a run, without trackers. Only the main process writes.

    fingerprints: as for `start`. Raises ConfigError if the folder has a run with another configuration, naming the keys
    that differ, or the data where these follow from it.
    """

    def __init__(
        self,
        config: Section,
        name: str,
        is_main: bool = True,
        folder: Path | None = None,
        fingerprints: dict[str, str] | None = None,
    ):
        self.name, self.folder, self.is_main = name, folder or RUNS_FOLDER / name, is_main
        self.config, self.lock, self.tracker = config, None, None
        self.changes: dict[str, list] = {}  # key -> [old value, new one], if the configuration has changed
        self.tracker_name = getattr(config, "tracker", "none") if folder is None and is_main else "none"
        path = self.folder / "config.yaml"
        if path.is_file():
            saved = read_yaml(path)
            if renamed := find_old_key(saved):
                raise ConfigError(
                    f"{self.folder}: written by an earlier version of Headstart ({renamed}).\n"
                    f"Choose another name, run={name}-2."
                )
            old, new = flatten(saved), flatten(yaml.load(dump_config(config), YamlLoader))
            changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            if changed := [key for key in changed if key not in resumable_keys(config)]:
                self.changes = {key: [old.get(key), new.get(key)] for key in changed}
                if set(changed) <= KEYS_FROM_DATA:  # then the data is what was changed
                    self.compare(**(fingerprints or {}))
                key, others = changed[0], len(changed) - 1
                names = f"{', '.join(changed[1:4])}{', ...' * (others > 3)}"
                more = f" and {others} more key{'s' * (others > 1)} ({names})" if others else ""
                self.reject(f"{describe_change(key, old.get(key), new.get(key))}{more}")

    @property
    def is_finished(self) -> bool:
        """Whether the folder has what is written last: the encoder, or the model and its metrics."""
        has_model = (self.folder / "model").is_dir() and (self.folder / "metrics.json").is_file()
        return has_model or (self.folder / "encoder").is_dir()

    def reject(self, difference: str) -> None:
        """Raise ConfigError because the run was started with `difference`.

        Not if `allow_changes` is set, unless the run is finished, so that its results would be taken for new ones.
        """
        if self.is_finished:
            raise ConfigError(
                f"{self.folder}: is finished, and was started with {difference}.\n"
                f"Choose another name, run={self.name}-2, or delete it."
            )
        if not getattr(self.config, "allow_changes", False):
            raise ConfigError(
                f"{self.folder}: was started with {difference}.\n"
                f"Choose another name, run={self.name}-2, or continue anyway with allow_changes=true."
            )

    def compare(self, **fingerprints: str) -> None:
        """Raise ConfigError if the run was started with other data, unless `allow_changes` is set."""
        path = self.folder / "fingerprints.json"
        old = read_json(path) if path.is_file() else {}
        if changed := [name for name in fingerprints if old.get(name, fingerprints[name]) != fingerprints[name]]:
            self.changes |= {name: [old[name], fingerprints[name]] for name in changed}
            self.reject(f"another {' and '.join(changed)}")

    def start(self, **fingerprints: str) -> None:
        """Make and lock the folder and save the resolved configuration; call it after all input checks.

        fingerprints: of the training data, by name (text, tokenizer, labels). Raises ConfigError if the run was started
        with others, another process uses it, or it cannot be written.
        """
        self.compare(**fingerprints)
        if not self.is_main or self.config.train.dry_run:
            return check_writable(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = acquire(self.folder)
            if self.changes:
                self.save_changes({"step": None, "keys": self.changes})
            write_text(self.folder / "config.yaml", dump_config(self.config))
            write_json(self.folder / "fingerprints.json", fingerprints)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise ConfigError(f"{error.filename or self.folder}: cannot be written ({error.strerror})") from None

    def resume_at(self, step: int) -> None:
        """Start the tracker, and drop log lines after `step` or cut off by a crash, which will be written again."""
        if self.is_main and any(change["step"] is None for change in self.read_changes().get("changes", [])):
            self.save_changes(step=step)
        config = flatten(self.config.model_dump(mode="json"))
        self.tracker = trackers.start_tracker(self.tracker_name, self.folder, config, step)
        path = self.folder / "log.jsonl"
        if not self.is_main or not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if parse_line(line).get("step", step + 1) <= step]
        if len(kept) < len(lines):
            write_text(path, b"".join(kept).decode())

    def read_changes(self) -> dict:
        """Return {"changes": [{"step", "keys": {key: [old value, new one]}}]} of a run continued with others, or {}."""
        path = self.folder / "changes.json"
        return read_json(path) if path.is_file() else {}

    def save_changes(self, new: dict | None = None, step: int | None = None) -> None:
        """Add a change, at a step not yet known, or set the step of the last one; before any step it is none."""
        changes = self.read_changes().get("changes", [])
        known = [change for change in changes if change["step"] is not None]
        if new:
            known.append(new)
        elif step:
            known.append(changes[-1] | {"step": step})
        write_json(self.folder / "changes.json", {"changes": known} if known else {})

    def log(self, entry: dict) -> None:
        """Append a line to log.jsonl, with null for non-finite numbers, and log it to the tracker."""
        if self.is_main:
            bad = {key for key, value in entry.items() if isinstance(value, float) and not math.isfinite(value)}
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(entry | dict.fromkeys(bad)) + "\n")
        if self.tracker:
            self.tracker.log(trackers.flatten_metrics(entry), step=entry["step"])

    def finish(self) -> None:
        """Finish the tracker."""
        if self.tracker:
            self.tracker.finish()

    def read_log(self) -> list[dict]:
        """Read the entries of log.jsonl."""
        return read_log(self.folder / "log.jsonl")


def parse_line(line: bytes) -> dict:
    """Parse a line of the log; return {} for one that is incomplete or damaged."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if line.endswith(b"\n") and isinstance(entry, dict) and isinstance(entry.get("step"), int) else {}


def read_log(path: Path) -> list[dict]:
    """Read the entries of a log that are whole: a run may be writing, or the machine may have crashed."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [entry for line in lines if (entry := parse_line(line))]


def check_writable(folder: Path) -> None:
    """Raise ConfigError if the folder, or its nearest existing parent, cannot be written."""
    while not folder.exists():
        folder = folder.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: cannot be written")


def describe_change(key: str, old: object, new: object) -> str:
    """Return `key=old, not new`; of lists of mappings, such as sources, the first value that differs."""
    mappings = [value for value in (old, new) if isinstance(value, list) and value and isinstance(value[0], dict)]
    if not mappings:
        return f"{key}={format_value(old)}, not {format_value(new)}"
    for index, pair in enumerate(zip(*mappings, strict=False) if len(mappings) == 2 else ()):
        first, second = map(flatten, pair)
        for name in sorted(first.keys() | second.keys()):
            if first.get(name) != second.get(name):
                return describe_change(f"{key}.{index}.{name}", first.get(name), second.get(name))
    return f"another {key}"


def format_value(value: object) -> str:
    """Format a value as in a command-line argument."""
    return "none" if value is None else str(value)
