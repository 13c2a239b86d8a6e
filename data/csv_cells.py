"""Cells of a CSV: any value as text, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from math import isfinite
from types import SimpleNamespace
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of a cell that a spreadsheet may run as a formula; the last four are the full-width signs."""


def make_harmless(cell: str) -> str:
    """Return a cell that no spreadsheet runs: an apostrophe comes before what starts a formula, but not a number.

    Also before one that has apostrophes already, so that `data.tasks.answers.restore` gives every cell back.
    """
    if not cell.lstrip("'").startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
        return cell
    except ValueError:
        return f"'{cell}"


def to_json(value: Any) -> str:
    """Return a value as JSON; dates and the like as text, half of a surrogate pair as a question mark.

    JSON has no number that is not finite, so those are null.
    """

    def finite(value: object) -> object:
        if isinstance(value, float):
            return value if isfinite(value) else None
        if isinstance(value, dict):
            return {key: finite(each) for key, each in value.items()}
        return [finite(each) for each in value] if isinstance(value, (list, tuple)) else value

    def other_to_text(value: object) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    text = json.dumps(finite(value), ensure_ascii=False, default=other_to_text)
    return text.encode("utf-8", "replace").decode()


def to_cell(value: Any, raw: bool) -> str:
    """Return a value as a cell of a CSV: lists and objects as JSON, nothing as an empty cell."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = to_json(value) if isinstance(value, (list, dict)) else str(value)
    text = text.encode("utf-8", "replace").decode()
    return text if raw or not isinstance(value, str) else make_harmless(text)


def csv_lines(rows: Iterable[list], raw: bool) -> str:
    """Return rows as lines of a CSV."""
    lines: list[str] = []
    # A lone "\r", where readers end a row too, is quoted by Python 3.11 only if it is in the line end.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows([to_cell(value, raw) for value in row] for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines)
