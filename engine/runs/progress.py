"""Progress on the console."""

from __future__ import annotations

import sys
import time


class Progress:
    """A progress bar on a terminal; otherwise a plain line every ten seconds."""

    def __init__(self, title: str, total: int, initial: int, enabled: bool, unit: str = "step"):
        self.title, self.total, self.initial, self.enabled, self.unit = title, total, initial, enabled, unit
        self.start_time = self.last_print_time = time.monotonic()
        self.bar = None
        if enabled and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            count, note, left = MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TextColumn("left")
            title_column = TextColumn("{task.description}")
            self.bar = Bar(title_column, BarColumn(bar_width=24), count, note, TimeRemainingColumn(), left)
            self.task = self.bar.add_task(title, total=total, completed=initial, note="")
            self.bar.start()

    def update(self, completed: int, note: str) -> None:
        """Show that `completed` steps are done, followed by `note`."""
        if self.bar:
            self.bar.update(self.task, completed=completed, note=note)
        elif self.enabled and (time.monotonic() - self.last_print_time > 10 or completed == self.total):
            now = self.last_print_time = time.monotonic()
            left = (now - self.start_time) / max(1, completed - self.initial) * (self.total - completed)
            count = f"{self.unit} {completed}/{self.total}"
            print(f"{self.title}  {count}  {note}  {left // 60:.0f}:{left % 60:02.0f} left", flush=True)

    def rate(self, completed: float) -> float:
        """Return steps per second since the start."""
        return (completed - self.initial) / max(1e-9, time.monotonic() - self.start_time)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        """Restore the terminal, also after an error."""
        if self.bar:
            self.bar.stop()
