"""A run's folder: resolved config, log, progress shown to a person, and what it was made with.

out/runs/NAME/   config.yaml  log.jsonl  step-*/  best/  encoder/ or model/  metrics.json
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path

import yaml

from engine.config.loader import YamlLoader, dump_config, read_yaml
from engine.config.schema import Section, resumable_keys
from engine.errors import ConfigError
from engine.files import is_disk_full, read_json, write_json, write_text
from engine.runs import trackers
from engine.system.lock import acquire

RUNS_FOLDER = Path("out/runs")
VERSIONED_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "peft", "numpy")


def package_versions(packages: tuple[str, ...] = VERSIONED_PACKAGES) -> dict[str, str]:
    """Of Python and of the packages the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in packages:
        found[name] = importlib.metadata.version(name)
    return found


def flatten(tree: dict, prefix: str = "") -> dict:
    """A nested mapping as dotted keys."""
    found = {}
    for key, value in tree.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


class Run:
    """One run's folder. Only the main process writes; the others read.

    folder: where, when it is not out/runs/NAME: a part of a run, which trackers are not told of.
    Raises ConfigError when the folder belongs to a run with another configuration, naming the keys that differ.
    """

    def __init__(self, config: Section, name: str, is_main: bool = True, folder: Path | None = None):
        self.name, self.folder, self.is_main = name, folder or RUNS_FOLDER / name, is_main
        self.config, self.lock, self.tracker = config, None, None
        self.tracker_name = getattr(config, "tracker", "none") if folder is None and is_main else "none"
        path = self.folder / "config.yaml"
        if path.is_file():
            old = flatten(read_yaml(path))
            new = flatten(yaml.load(dump_config(config), YamlLoader))
            differing = [
                key
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key) and key not in resumable_keys(config)
            ]
            if differing:
                key, others = differing[0], len(differing) - 1
                more = f" and {others} more key{'s' * (others > 1)} ({', '.join(differing[1:4])})" if others else ""
                self.reject(f"{key}={format_value(old.get(key))}, not {format_value(new.get(key))}{more}")

    def reject(self, difference: str) -> None:
        """Raises ConfigError, as the run was started `difference`; unless `changed` allows that."""
        if not getattr(self.config, "allow_changes", False):
            raise ConfigError(
                f"{self.folder}: was started with {difference}.\n"
                f"Give this one a name of its own, run={self.name}-2, or go on all the same, allow_changes=true."
            )

    def start(self, **fingerprints: str) -> None:
        """Make the folder, lock it, and save the resolved configuration. Called once all that the user gave has been checked.

        fingerprints: fingerprints of what is learned from, by name (text, tokenizer, labels). Raises ConfigError when the run was
        started with others, another process is at work in it, or it cannot be written.
        """
        path = self.folder / "fingerprints.json"
        if path.is_file():
            old = read_json(path)
            differing = [name for name in fingerprints if old.get(name, fingerprints[name]) != fingerprints[name]]
            if differing:
                self.reject(f"another {' and '.join(differing)}")
        if not self.is_main or self.config.train.dry_run:
            return check_writable(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = acquire(self.folder)
            write_text(self.folder / "config.yaml", dump_config(self.config))
            write_json(path, fingerprints)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise ConfigError(f"{error.filename or self.folder}: cannot be written ({error.strerror})") from None

    def resume_at(self, step: int) -> None:
        """Drop the log's lines after `step`, and half a line that a crash left: they are about to be written again."""
        self.tracker = trackers.start_tracker(
            self.tracker_name, self.folder, flatten(self.config.model_dump(mode="json")), step
        )
        path = self.folder / "log.jsonl"
        if not self.is_main or not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and self.parse_line(line).get("step", step + 1) <= step]
        if len(kept) < len(lines):
            write_text(path, b"".join(kept).decode())

    @staticmethod
    def parse_line(line: bytes) -> dict:
        """A line of the log; nothing of one that is damaged."""
        try:
            told = json.loads(line)
        except ValueError:
            return {}
        return told if isinstance(told, dict) and isinstance(told.get("step"), int) else {}

    def log(self, entry: dict) -> None:
        """Append one line to log.jsonl, and tell the tracker."""
        if self.is_main:
            finite = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in entry.items()
            }  # JSON has no word for the others
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        if self.tracker:
            self.tracker.log(trackers.flatten_metrics(entry), step=entry["step"])

    def finish(self) -> None:
        """Training is over: the tracker has been told everything."""
        if self.tracker:
            self.tracker.finish()

    def read_log(self) -> list[dict]:
        """The log's lines."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def check_writable(folder: Path) -> None:
    """Raises ConfigError when the folder, or the nearest there is above it, cannot be written."""
    while not folder.exists():
        folder = folder.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: cannot be written")


def format_value(value: object) -> str:
    """A config value as a person would type it."""
    return "none" if value is None else str(value)
