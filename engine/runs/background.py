"""A command beside the training, in a process of its own: never two at once, and never the training's end.

beside = Background(run.folder / "push.log")
beside.start(["publish.hub.push_checkpoint", "folder=...", "repo=me/name"])     each time there is something to do
print(beside.end())                                              once, at the end
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.system import openmp


class BackgroundCommand:
    """`python -m WORDS...`; what it says, or why it failed, is added to the file `log`."""

    def __init__(self, log_path: Path):
        self.log_path, self.process, self.last_error = log_path, None, ""
        self.num_succeeded = self.num_failed = self.num_skipped = 0

    def is_running(self) -> bool:
        """Whether the last one is still at it. Counts it once it is not."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode:
                self.num_failed, self.last_error = self.num_failed + 1, last_line(self.log_path)
            else:
                self.num_succeeded += 1
            self.process = None
        return self.process is not None

    def start(self, args: list[str]) -> bool:
        """Begin, unless the last one still runs: whether it did. Nothing that goes wrong is raised."""
        if self.is_running():
            self.num_skipped += 1
            return False
        try:
            with open(self.log_path, "a", encoding="utf-8") as file:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", *args],
                    stdout=file,
                    stderr=file,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env=openmp.passive_env(),
                )
        except OSError as error:
            self.num_failed, self.last_error = self.num_failed + 1, str(error)
        return self.process is not None

    def wait(self, timeout: float = 600) -> str:
        """Wait for the last one, and tell in a line how they went; empty when there was none."""
        if self.is_running():
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                return f"{self.num_succeeded} done, {self.num_failed} failed, the last one is still under way; see {self.log_path}"
            self.is_running()
        if not self.num_succeeded + self.num_failed:
            return ""
        return (
            f"{self.num_succeeded} done, {self.num_failed} failed"
            + f", {self.num_skipped} passed over" * bool(self.num_skipped)
            + f": {self.last_error}" * bool(self.num_failed)
        )


def last_line(path: Path) -> str:
    """The last line of a file that says anything."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else f"see {path}"
