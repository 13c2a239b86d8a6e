"""TODO."""

from __future__ import annotations

import sys
import time


class Progress:
    """A bar with loss, rate and time left on a terminal; a plain line every few seconds otherwise."""

    def __init__(self, title: str, total: int, initial: int, enabled: bool, unit: str = "step"):
        self.title, self.total, self.initial, self.enabled, self.unit = title, total, initial, enabled, unit
        self.start_time = self.last_print_time = time.time()
        self.bar = None
        if enabled and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self.task = self.bar.add_task(title, total=total, completed=initial, note="")
            self.bar.start()

    def update(self, completed: int, note: str) -> None:
        """`completed` steps are done; `note` says how it goes."""
        if self.bar:
            self.bar.update(self.task, completed=completed, note=note)
        elif self.enabled and (time.time() - self.last_print_time > 10 or completed == self.total):
            self.last_print_time = time.time()
            left = (
                (self.last_print_time - self.start_time) / max(1, completed - self.initial) * (self.total - completed)
            )
            print(
                f"{self.title}  {self.unit} {completed}/{self.total}  {note}  {left // 60:.0f}:{left % 60:02.0f} left",
                flush=True,
            )

    def rate(self, completed: float) -> float:
        """Steps a second since the start."""
        return (completed - self.initial) / max(1e-9, time.time() - self.start_time)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        """Leave the terminal as it was, however training ended."""
        if self.bar:
            self.bar.stop()
