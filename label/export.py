"""The queue as a file that an annotation tool imports; `data.tasks.exports` reads what the tool exports later."""

from __future__ import annotations

import json
from pathlib import Path

from engine.files import write_text
from label.config import Tool
from label.items import Item

EXTENSIONS: dict[Tool, str] = {"label-studio": "json", "doccano": "jsonl", "argilla": "json"}


def label_studio_task(item: Item, column: str, suggest: bool) -> dict:
    """Return a task of Label Studio, with a suggestion as its prediction."""
    task = {"data": {column: item.text, "role": item.role, "reason": item.reason}}
    if suggest:
        value = {"choices": [item.suggestion]}
        result = {"from_name": "label", "to_name": column, "type": "choices", "value": value}
        task["predictions"] = [{"model_version": "headstart", "score": item.probability or 0.0, "result": [result]}]
    return task


def doccano_row(item: Item, column: str, suggest: bool) -> dict:
    """Return a row of doccano, which would take a suggestion for a label."""
    return {column: item.text, "label": [], "role": item.role, "reason": item.reason}


def argilla_record(item: Item, column: str, suggest: bool) -> dict:
    """Return a record of Argilla, with a suggestion for the question `label`."""
    suggestions = {"label": {"value": item.suggestion, "score": item.probability, "agent": "headstart"}}
    return {
        "id": str(item.id),
        "fields": {column: item.text},
        "metadata": {"role": item.role, "reason": item.reason},
        "suggestions": suggestions if suggest else {},
        "responses": {},
    }


RECORDS = {"label-studio": label_studio_task, "doccano": doccano_row, "argilla": argilla_record}


def export_items(items: list[Item], tool: Tool, column: str, suggest: bool, path: Path) -> None:
    """Write the rows for a tool. suggest: whether with suggestions, never of test rows."""
    records = [
        RECORDS[tool](item, column, suggest and bool(item.suggestion) and item.role != "measure") for item in items
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    if EXTENSIONS[tool] == "jsonl":
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        lines = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    write_text(path, lines.encode("utf-8", "replace").decode())
