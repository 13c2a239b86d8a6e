"""What a text and a label may be: values of rows, as files and hubs have them, converted to text or refused."""

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator
from numbers import Number

from engine.errors import DataError, suggest

MAX_LIST_CHARS = 10_000
NUMPY_LIST = re.compile(r"""(['"])\s+\1""")  # ['a' 'b'], which Python reads as ['ab']


def get_value(row: dict, column: str, location: str) -> object:
    """Return the value of a column, None if it is missing or NaN. Raises DataError with the nearest existing column."""
    if column not in row:
        raise DataError(f"{location}: no column {column!r}{suggest(column, row)}")
    value = row[column]
    return None if isinstance(value, float) and math.isnan(value) else value


def is_empty(value: object) -> bool:
    """Return whether a row has no value in a column: nothing, NaN or only white space."""
    return value is None or value != value or isinstance(value, str) and not value.strip()


def to_text(value: object, place: str) -> str:
    """Convert a string, bytes in UTF-8, a number or None, which is empty, to text. Raises DataError for others."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DataError(f"{place} holds bytes that are not UTF-8") from None
    if isinstance(value, str):
        # Half a surrogate pair, common in scraped text, cannot be encoded as UTF-8.
        return value.encode("utf-8", "replace").decode()
    if value is not None and not isinstance(value, Number):
        raise DataError(f"{place} holds a value of type {type(value).__name__}")
    return "" if value is None or value != value else str(value)


def get_scalar(row: dict, column: str, location: str) -> str:
    """Return a word or a number as text, "" if it is missing. Raises DataError naming the column for anything else."""
    return to_text(get_value(row, column, location), f"{location}: column {column!r}")


def get_text(row: dict, column: str, location: str) -> str:
    """Return a text, the strings of a list joined by spaces. Raises DataError naming the column for anything else."""
    value, place = get_value(row, column, location), f"{location}: column {column!r}"
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(part, Number) for part in parts):
        raise DataError(f"{place} holds a number, not a text")
    return " ".join(to_text(part, place) for part in parts if part is not None)


def get_list(row: dict, column: str, location: str) -> list[str] | None:
    """Return the values of a list, also of one written as text, such as "['a', 'b']"; None for any other value.

    Raises DataError for objects, and for what looks like a list and cannot be read as one.
    """
    value, place = get_value(row, column, location), f"{location}: column {column!r}"
    if isinstance(value, str) and (text := value.strip())[:1] + text[-1:] in ("[]", "{}"):
        value = parse_list(text, place)
    if not isinstance(value, (list, tuple)):
        return None
    if None in value:
        raise DataError(f"{place} holds a list with a missing value")
    return [to_text(part, place) for part in value]


def parse_list(text: str, place: str) -> list | str:
    """Parse a list written as JSON or Python; a text in brackets without a comma remains one. Raises DataError."""
    value = text
    if len(text) <= MAX_LIST_CHARS and not NUMPY_LIST.search(text):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, list) or value is text and "," not in text and not NUMPY_LIST.search(text):
        return value
    kind = "a list" if text.startswith("[") else "an object"
    raise DataError(f"{place} holds {kind} as text: {text[:60]!r}; write a JSON list of labels, or the label alone")


def skip_hint(column: str) -> str:
    """Return the way out for a row without a value."""
    return f"; non_empty: [{column}] leaves such rows out"


def find_class_names(features: dict) -> dict[str, list[str]]:
    """Return the class names of the columns that have some. features: as `datasets` writes them as JSON."""
    names = {}
    for column, feature in features.items():
        while isinstance(feature, list) and feature or isinstance(feature, dict) and "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        if isinstance(feature, dict) and isinstance(feature.get("names"), list):
            names[column] = feature["names"]
    return names


def name_classes(rows: Iterable[dict], class_names: dict[str, list[str]]) -> Iterator[dict]:
    """Yield the rows with names instead of class numbers, None for a number without a name, such as -1 (unlabeled)."""

    def name(value: object, names: list[str]) -> object:
        if isinstance(value, list):
            return [name(part, names) for part in value]
        if isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        return value

    for row in rows:
        yield {**row, **{column: name(row[column], names) for column, names in class_names.items() if column in row}}
