"""Answers of a person who labels: `labels.csv`, to which each answer is appended as a row, and the roles of rows.

The last answer about a text counts. Rows with the role `measure` were drawn at random, before anyone saw them: they
alone measure a model, and it never trains on them. All others may have been chosen.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from data.csv_cells import FORMULA_STARTS
from data.sources.values import MISSING, find_value, get_scalar
from data.tasks.splits import Example, normalize
from engine.errors import DataError, suggest

ROLES = ("train", "measure")
Role = Literal["train", "measure"]
ANSWERS = ("label", "unsure", "skip", "undo")
ANSWER_COLUMNS = ("label", "role", "time", "seconds", "answer")
"""Columns of labels.csv after that of the text or image. `answer` is last: a row cut short has none of ANSWERS."""
QUEUE_COLUMNS = ("label", "role", "reason", "cluster", "suggestion", "suggestion_probability")
"""Columns of the queue of rows to label, after `id` and that of the text or image."""


class Row(NamedTuple):
    """A row of a task."""

    example: Example | None
    """None for a row without text; a label of "" for one without a label."""
    role: Role = "train"
    has_role: bool = False
    """Whether it has the column of roles."""
    is_answer: bool = False
    """Whether it is an answer of labels.csv."""
    is_undo: bool = False
    """Whether it takes back the answers before it."""

    @property
    def has_label(self) -> bool:
        """Whether the row has a label."""
        return self.example.label != ""


def is_answer(row: dict) -> bool:
    """Return whether a row is of labels.csv."""
    return row.get("answer") in ANSWERS and all(column in row for column in ANSWER_COLUMNS)


def is_queued(row: dict) -> bool:
    """Return whether a row is of the queue."""
    return all(column in row for column in QUEUE_COLUMNS)


def restore(cell: str) -> str:
    """Return a cell without the apostrophe of `data.csv_cells.make_harmless`."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(FORMULA_STARTS) else cell


def restore_cells(row: dict) -> dict:
    """Return a row of labels.csv or the queue with the texts as they were; any other row as it is."""
    if not (is_answer(row) or is_queued(row)):
        return row
    return {column: restore(value) if isinstance(value, str) else value for column, value in row.items()}


def lacks_answer(row: dict) -> bool:
    """Return whether a row is an answer that gives no label."""
    return is_answer(row) and row["answer"] != "label"


def has_column(row: dict, column: str | None) -> bool:
    """Return whether there is a column of this name."""
    return column is not None and find_value(row, column) is not MISSING


def read_role(row: dict, column: str | None, location: str) -> Role:
    """Return the role of a row, train for an empty cell or without the column. Raises DataError for others."""
    if not has_column(row, column):
        return "train"
    role = get_scalar(row, column, location).strip().lower()
    if role and role not in ROLES:
        raise DataError(f"{location}: {role!r} in column {column!r} is not a role{suggest(role, ROLES)}")
    return role or "train"


def keep_last_answers(rows: list[Row]) -> list[Row]:
    """Return the rows; of a text with answers the last of these alone, or the other rows if that one is an undo."""
    last = {row.example.texts: row for row in rows if row.is_answer}
    others = {row.example.texts for row in rows if not row.is_answer}

    def is_kept(row: Row) -> bool:
        answer = last.get(row.example.texts)
        if answer is None or answer.is_undo and row.example.texts in others:
            return not row.is_answer
        return row is answer

    return [row for row in rows if is_kept(row)]


def without_texts_of(examples: Iterable[Example], others: Iterable[Example]) -> list[Example]:
    """Return the examples with different texts, each once, that none of the others has."""
    seen, kept = {normalize(other.texts) for other in others}, []
    for example in examples:
        text = normalize(example.texts)
        if text not in seen:
            seen.add(text)
            kept.append(example)
    return kept
