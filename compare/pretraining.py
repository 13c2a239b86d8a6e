"""Train an objective for a number of CPU seconds, in a process of its own.

The seconds of a step are measured while a short run trains, and again during the training itself. Only the steps are
counted: loading, evaluation and saving the encoder are not part of what an objective costs.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from data.cache import fingerprint
from data.encoders import hash_weights, resolve_encoder
from engine.config.loader import merge
from engine.errors import ConfigError, DataError
from engine.files import read_json, write_json
from engine.runs.background import last_line, run_child
from engine.runs.run import RUNS_FOLDER
from engine.system.lock import acquire

SPEED_FRACTION, MIN_SPEED_SECONDS, MAX_SPEED_SECONDS = 0.05, 1.0, 20.0
"""CPU seconds of the short run: this fraction of the budget, within limits."""
MIN_SPEED_STEPS, MAX_SPEED_STEPS = 5, 100_000
NUM_LOG_ENTRIES, NUM_CHECKPOINTS = 50, 10
LOCK_SECONDS = 60  # that a killed training may take to save its last checkpoint
WARNING = re.compile(r"(?i)^warning:|collaps|diverg")
"""What the lines of a training's output that are shown in the report begin with or contain."""


class StepTimer:
    """CPU seconds of a training process between the first and the last step in its log, not those of evaluations."""

    def __init__(self, log: Path):
        self.log, self.size = log, -1
        self.first = self.last = None

    def update(self, process: subprocess.Popen) -> bool:
        """Read the log of a running process, and return whether it has grown."""
        size = self.log.stat().st_size if self.log.is_file() else -1
        if size == self.size:
            return False
        self.size = size
        try:
            times = psutil.Process(process.pid).cpu_times()
        except psutil.Error:
            return False
        lines = self.log.read_bytes().splitlines(keepends=True) if size > 0 else []
        entry = json.loads(lines[-1]) if lines and lines[-1].endswith(b"\n") else {"eval": {}}
        if "eval" not in entry:
            self.last = entry["step"], times.user + times.system
            self.first = self.first or self.last
        return True

    @property
    def steps(self) -> int:
        """Number of steps that were measured."""
        return self.last[0] - self.first[0] if self.last else 0

    @property
    def seconds(self) -> float:
        """CPU seconds of these steps."""
        return self.last[1] - self.first[1] if self.last else 0.0


class Pretraining:
    """A training of an objective, with its results in the folder of the comparison.

    folder: of the comparison. name: of the objective or the start. tree: the configuration without run. budget: CPU
    seconds; None: as many steps as the configuration has.
    """

    def __init__(self, folder: Path, name: str, tree: dict, budget: float | None):
        self.tree, self.budget = tree, budget
        init = hash_weights(resolve_encoder(tree["init"])) if tree.get("init") else None
        self.run = f"{folder.name[:60]}-{name.replace(' ', '-')}-{fingerprint([tree, init, budget])}"
        self.folder, self.run_folder = folder / "pretraining" / self.run, RUNS_FOLDER / self.run
        self.record_path, self.output_path = (self.folder.with_name(f"{self.run}.{end}") for end in ("json", "log"))
        self.record = read_json(self.record_path) if self.record_path.is_file() else {}

    @property
    def encoder(self) -> Path:
        """The folder of the trained encoder, which exists once the training is finished."""
        return self.folder / "encoder"

    def save_record(self, **values) -> None:
        """Add values to the record and write it."""
        self.record |= values
        write_json(self.record_path, self.record)

    def run_pretrain(self, changes: dict, watch: Callable[[subprocess.Popen], None]) -> int:
        """Run `python -m pretrain` and return its exit code; its output is appended to a file."""
        args = [f"{key}={json.dumps(value)}" for key, value in merge(self.tree, changes).items()]
        self.output_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.output_path, "ab") as output:
            return run_child(["pretrain", *args], dict(os.environ), output, watch)

    def measure_speed(self) -> float:
        """Return the CPU seconds of a step, from a short run that is then removed. Raises DataError if it fails."""
        if "seconds_per_step" in self.record:
            return self.record["seconds_per_step"]
        folder = RUNS_FOLDER / f"{self.run}-speed"
        wait_for_lock(folder)
        shutil.rmtree(folder, ignore_errors=True)
        timer = StepTimer(folder / "log.jsonl")
        needed = min(MAX_SPEED_SECONDS, max(MIN_SPEED_SECONDS, SPEED_FRACTION * self.budget))

        def watch(process: subprocess.Popen) -> None:
            timer.update(process)
            if timer.seconds >= needed and timer.steps >= MIN_SPEED_STEPS:
                process.kill()

        never = dict.fromkeys(("steps", "eval_every", "save_every"), MAX_SPEED_STEPS)
        usual = {"head_only_fraction": 0.0}  # the first steps with init train the head alone, which is faster
        exit_code = self.run_pretrain({"run": folder.name, **usual, "train": {**never, "log_every": 1}}, watch)
        shutil.rmtree(folder, ignore_errors=True)
        if not timer.steps:
            raise DataError(self.describe_failure(exit_code))
        self.save_record(seconds_per_step=timer.seconds / timer.steps)
        return self.record["seconds_per_step"]

    def count_steps(self) -> int:
        """Return the steps that spend the budget, or those of the configuration."""
        return max(1, round(self.budget / self.measure_speed())) if self.budget else self.tree["train"]["steps"]

    def train(self) -> None:
        """Train, or resume a training, unless it is finished. Raises DataError with the reason if it fails."""
        if self.encoder.is_dir():
            return
        steps = self.count_steps()
        train = {"steps": steps, "eval_every": steps, "save_every": max(1, steps // NUM_CHECKPOINTS)}
        train |= {"log_every": max(1, steps // NUM_LOG_ENTRIES)}
        timer, attempts = StepTimer(self.run_folder / "log.jsonl"), self.record.get("attempts", [])

        def watch(process: subprocess.Popen) -> None:
            if timer.update(process):
                attempt = {"steps": timer.steps, "cpu_seconds": round(timer.seconds, 2)}
                self.save_record(attempts=[*attempts, attempt])

        wait_for_lock(self.run_folder)
        exit_code = self.run_pretrain({"run": self.run, "train": train}, watch)
        if exit_code or not (self.run_folder / "encoder").is_dir():
            raise DataError(self.describe_failure(exit_code))
        measured, seconds = (
            sum(each[key] for each in self.record.get("attempts", [])) for key in ("steps", "cpu_seconds")
        )
        per_step = seconds / measured if measured else self.record.get("seconds_per_step", 0)
        lines = self.output_path.read_text(encoding="utf-8", errors="replace").splitlines()
        warnings = list(dict.fromkeys(line for line in map(str.strip, lines) if WARNING.search(line)))
        self.save_record(steps=steps, cpu_seconds=round(per_step * steps, 1), warnings=warnings)
        for checkpoint in self.run_folder.glob("step-*"):
            shutil.rmtree(checkpoint)
        # Out of out/runs, so that no later command takes it for the newest encoder.
        self.run_folder.replace(self.folder)

    def describe_failure(self, exit_code: int) -> str:
        """Return the last line of the output, with the exit code if it is not that of a user's mistake."""
        line = last_line(self.output_path)
        return line if exit_code == 2 else f"{line} (exit code {exit_code})"


def wait_for_lock(folder: Path) -> None:
    """Wait for a training that was stopped to save its last checkpoint. Raises ConfigError if it takes too long."""
    deadline = time.monotonic() + LOCK_SECONDS
    while folder.is_dir():
        try:
            return acquire(folder).release()
        except ConfigError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
