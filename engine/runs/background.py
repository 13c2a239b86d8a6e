"""Commands in child processes: in the background during training, one at a time, or in its place."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from engine.errors import CommandExit
from engine.system import openmp, stop_signals

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


def start_child(args: list[str], env: dict[str, str], output: IO | None = None) -> subprocess.Popen:
    """Start `python -m ARGS...`, which is stopped when this process ends in any way. output: a file, for all of it."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None
    command, stop = [sys.executable, "-m", *args], partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
    return subprocess.Popen(command, env=env, preexec_fn=stop, stdout=output, stderr=output)


def run_child(
    args: list[str],
    env: dict[str, str],
    output: IO | None = None,
    watch: Callable[[subprocess.Popen], None] = lambda process: None,
) -> int:
    """Run `python -m ARGS...` and return its exit code; it is stopped with this process, however that ends.

    output: a file, for all that the child prints. watch: called with the process several times a second. Raises
    CommandExit, once the child has saved its work, if this process received SIGTERM or SIGINT.
    """
    with stop_signals.catch_signals() as request:
        process, forwarded = start_child(args, env, output), False
        while process.poll() is None:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                watch(process)
                if request.signal and not forwarded:
                    # The child may have received the same signal, and a second one would end it before it has saved.
                    other = next(number for number in stop_signals.SIGNALS if number != request.signal)
                    process.send_signal(other)
                    forwarded = True
    if request.signal:
        raise CommandExit("", 128 + request.signal)  # the child has printed how to resume
    return process.returncode


class BackgroundCommand:
    """Runs `python -m ARGS...` and appends its output to `log_path`; `wait` returns a summary at the end."""

    def __init__(self, log_path: Path):
        self.log_path, self.process, self.last_error = log_path, None, ""
        self.num_succeeded = self.num_failed = self.num_skipped = 0

    def is_running(self) -> bool:
        """Return whether the last command is still running; count its result once it is not."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode:
                self.num_failed, self.last_error = self.num_failed + 1, last_line(self.log_path)
            else:
                self.num_succeeded += 1
            self.process = None
        return self.process is not None

    def start(self, args: list[str]) -> bool:
        """Start a command unless the last one is still running; return whether it started. Raises nothing."""
        if self.is_running():
            self.num_skipped += 1
            return False
        command, env = [sys.executable, "-m", *args], openmp.passive_env()
        try:
            with open(self.log_path, "a", encoding="utf-8") as file:
                self.process = subprocess.Popen(
                    command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True, env=env
                )
        except OSError as error:
            self.num_failed, self.last_error = self.num_failed + 1, str(error)
        return self.process is not None

    def wait(self, timeout: float = 600) -> str:
        """Wait for the last command and return a one-line summary of all; empty if there was none."""
        if self.is_running():
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                counts = f"{self.num_succeeded} done, {self.num_failed} failed"
                return f"{counts}, the last one is still running; see {self.log_path}"
            self.is_running()
        if not self.num_succeeded + self.num_failed:
            return ""
        skipped = f", {self.num_skipped} skipped" if self.num_skipped else ""
        error = f": {self.last_error}" if self.num_failed else ""
        return f"{self.num_succeeded} done, {self.num_failed} failed{skipped}{error}"


def last_line(path: Path) -> str:
    """Return the last non-empty line of a file, or a pointer to the file."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else f"see {path}"
