"""A command beside the training, in a process of its own: never two at once, and never the training's end.

    beside = Background(run.folder / "push.log")
    beside.start(["publish.push", "folder=...", "repo=me/name"])     each time there is something to do
    print(beside.end())                                              once, at the end
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine import waiting


class Background:
    """`python -m WORDS...`; what it says, or why it failed, is added to the file `log`."""

    def __init__(self, log: Path):
        self.log, self.process, self.why = log, None, ""
        self.done = self.failed = self.passed_over = 0

    def is_running(self) -> bool:
        """Whether the last one is still at it. Counts it once it is not."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode:
                self.failed, self.why = self.failed + 1, last_line(self.log)
            else:
                self.done += 1
            self.process = None
        return self.process is not None

    def start(self, words: list[str]) -> bool:
        """Begin, unless the last one still runs: whether it did. Nothing that goes wrong is raised."""
        if self.is_running():
            self.passed_over += 1
            return False
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                self.process = subprocess.Popen([sys.executable, "-m", *words], stdout=file, stderr=file,
                                                stdin=subprocess.DEVNULL, start_new_session=True,
                                                env=waiting.asleep())
        except OSError as error:
            self.failed, self.why = self.failed + 1, str(error)
        return self.process is not None

    def end(self, seconds: float = 600) -> str:
        """Wait for the last one, and tell in a line how they went; empty when there was none."""
        if self.is_running():
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return f"{self.done} done, {self.failed} failed, the last one is still under way; see {self.log}"
            self.is_running()
        if not self.done + self.failed:
            return ""
        return (f"{self.done} done, {self.failed} failed" + f", {self.passed_over} passed over" * bool(self.passed_over)
                + f": {self.why}" * bool(self.failed))


def last_line(path: Path) -> str:
    """The last line of a file that says anything."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else f"see {path}"
