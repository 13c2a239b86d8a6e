"""Rows to label, and files of them."""

from __future__ import annotations

import csv
from pathlib import Path

from data.csv_cells import make_harmless
from data.tasks.answers import QUEUE_COLUMNS
from label.items import Item

CLASSES = ["animal", "plant", "stone"]


def write_queue(path: Path, items: list[Item], column: str = "text") -> None:
    """Write rows as explore does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", column, *QUEUE_COLUMNS])
        for item in items:
            probability = "" if item.probability is None else item.probability
            cells = [item.label, item.role, item.reason, item.cluster, item.suggestion, probability]
            writer.writerow([item.id, *map(make_harmless, [item.text, *map(str, cells)])])


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def make_items(count: int) -> list[Item]:
    """Return rows, every fourth to measure by."""
    return [Item(n, f"text number {n}", "measure" if n % 4 == 3 else "train", "spread") for n in range(count)]
