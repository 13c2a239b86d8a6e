"""Cells of a CSV: any value as text, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet may run as a formula."""


def make_harmless(cell: str) -> str:
    """Return a cell that no spreadsheet runs: an apostrophe comes before what starts a formula, but not a number."""
    if not cell.startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
        return cell
    except ValueError:
        return f"'{cell}"


def to_json(value: Any) -> str:
    """Return a value as JSON; dates and the like as text, half of a surrogate pair as a question mark."""

    def other_to_text(value: object) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    text = json.dumps(value, ensure_ascii=False, default=other_to_text)
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
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([to_cell(value, raw) for value in row] for row in rows)
    return buffer.getvalue()
