"""A run's folder: resolved config, log, progress shown to a person, and what it was made with.

    out/runs/NAME/   config.yaml  log.jsonl  step-*/  best/  encoder/ or model/  metrics.json
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import yaml

from engine import tracking
from engine.config import Loader, Section, dump, read_yaml
from engine.errors import ConfigError
from engine.files import is_full, read_json, write_json, write_text
from engine.lock import hold

RUNS = Path("out/runs")
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "peft", "numpy")
# Keys that change what is written when, not what is learned: a run may go on with others.
HARMLESS = ("train.log_every", "train.save_every", "train.keep", "train.micro_batch", "train.most_skipped", "train.replay",
            "train.check", "train.sharded", "changed", "push_every", "push_to", "tracker", "layers.cache",
            "layers.cache_mb")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Of Python and of the packages the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in packages:
        found[name] = importlib.metadata.version(name)
    return found


def flat(tree: dict, prefix: str = "") -> dict:
    """A nested mapping as dotted keys."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


class Run:
    """One run's folder. Only the main process writes; the others read.

    folder: where, when it is not out/runs/NAME: a part of a run, which trackers are not told of.
    Raises ConfigError when the folder belongs to a run with another configuration, naming the keys that differ.
    """

    def __init__(self, config: Section, name: str, is_main: bool = True, folder: Path | None = None):
        self.name, self.folder, self.is_main = name, folder or RUNS / name, is_main
        self.config, self.lock, self.tracker = config, None, None
        self.watched = getattr(config, "tracker", "none") if folder is None and is_main else "none"
        path = self.folder / "config.yaml"
        if path.is_file():
            old = flat(read_yaml(path))
            new = flat(yaml.load(dump(config), Loader))
            differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in HARMLESS]
            if differing:
                key, others = differing[0], len(differing) - 1
                more = f" and {others} more key{'s' * (others > 1)} ({', '.join(differing[1:4])})" if others else ""
                self.refuse(f"{key}={shown(old.get(key))}, not {shown(new.get(key))}{more}")

    def refuse(self, otherwise: str) -> None:
        """Raises ConfigError, as the run was started `otherwise`; unless `changed` allows that."""
        if not getattr(self.config, "changed", False):
            raise ConfigError(f"{self.folder}: was started with {otherwise}.\n"
                              f"Give this one a name of its own, run={self.name}-2, or go on all the same, changed=true.")

    def begin(self, **data: str) -> None:
        """Make the folder, lock it, and save the resolved configuration. Called once all that the user gave has been checked.

        data: fingerprints of what is learned from, by name (text, tokenizer, labels). Raises ConfigError when the run was
        started with others, another process is at work in it, or it cannot be written.
        """
        path = self.folder / "data.json"
        if path.is_file():
            old = read_json(path)
            differing = [name for name in data if old.get(name, data[name]) != data[name]]
            if differing:
                self.refuse(f"another {' and '.join(differing)}")
        if not self.is_main or self.config.train.check:
            return writable(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = hold(self.folder)
            write_text(self.folder / "config.yaml", dump(self.config))
            write_json(path, data)
        except OSError as error:
            if is_full(error):
                raise
            raise ConfigError(f"{error.filename or self.folder}: cannot be written ({error.strerror})") from None

    def rewind(self, step: int) -> None:
        """Drop the log's lines after `step`, and half a line that a crash left: they are about to be written again."""
        self.tracker = tracking.begin(self.watched, self.folder, flat(self.config.model_dump(mode="json")), step)
        path = self.folder / "log.jsonl"
        if not self.is_main or not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and self.entry(line).get("step", step + 1) <= step]
        if len(kept) < len(lines):
            write_text(path, b"".join(kept).decode())

    @staticmethod
    def entry(line: bytes) -> dict:
        """A line of the log; nothing of one that is damaged."""
        try:
            told = json.loads(line)
        except ValueError:
            return {}
        return told if isinstance(told, dict) and isinstance(told.get("step"), int) else {}

    def log(self, entry: dict) -> None:
        """Append one line to log.jsonl, and tell the tracker."""
        if self.is_main:
            finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                      for key, value in entry.items()}  # JSON has no word for the others
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        if self.tracker:
            self.tracker.log(tracking.figures(entry), step=entry["step"])

    def end(self) -> None:
        """Training is over: the tracker has been told everything."""
        if self.tracker:
            self.tracker.finish()

    def read_log(self) -> list[dict]:
        """The log's lines."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def writable(folder: Path) -> None:
    """Raises ConfigError when the folder, or the nearest there is above it, cannot be written."""
    while not folder.exists():
        folder = folder.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: cannot be written")


def shown(value: object) -> str:
    """A config value as a person would type it."""
    return "none" if value is None else str(value)


class Progress:
    """A bar with loss, rate and time left on a terminal; a plain line every few seconds otherwise."""

    def __init__(self, title: str, steps: int, start: int, shown: bool, unit: str = "step"):
        self.title, self.steps, self.start, self.shown, self.unit = title, steps, start, shown, unit
        self.began = self.told = time.time()
        self.bar = None
        if shown and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn
            self.bar = Bar(TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                           TextColumn("{task.fields[note]}"), TimeRemainingColumn(), TextColumn("left"))
            self.task = self.bar.add_task(title, total=steps, completed=start, note="")
            self.bar.start()

    def update(self, step: int, note: str) -> None:
        """`step` steps are done; `note` says how it goes."""
        if self.bar:
            self.bar.update(self.task, completed=step, note=note)
        elif self.shown and (time.time() - self.told > 10 or step == self.steps):
            self.told = time.time()
            left = (self.told - self.began) / max(1, step - self.start) * (self.steps - step)
            print(f"{self.title}  {self.unit} {step}/{self.steps}  {note}  {left // 60:.0f}:{left % 60:02.0f} left", flush=True)

    def rate(self, done: float) -> float:
        """Steps a second since the start."""
        return (done - self.start) / max(1e-9, time.time() - self.began)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        """Leave the terminal as it was, however training ended."""
        if self.bar:
            self.bar.stop()
