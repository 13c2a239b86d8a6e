"""What a text and a label may be: values of rows, as files and hubs have them, converted to text or refused."""

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator
from numbers import Number

from engine.errors import DataError, OptionError, suggest

MAX_LIST_CHARS = 10_000
MISSING = object()
NUMPY_LIST = re.compile(r"""(['"])\s+\1""")  # ['a' 'b'], which Python reads as ['ab']


def find_value(value: object, path: str) -> object:
    """Return the value of a column or, by a dotted name, of a field inside one; MISSING if there is none.

    A number is a position in a list; a field of a list of objects is the list of their values.
    """
    if isinstance(value, dict):
        if path in value:
            return value[path]
        starts = [end for end, character in enumerate(path) if character == "." and path[:end] in value]
        return find_value(value[path[: starts[-1]]], path[starts[-1] + 1 :]) if starts else MISSING
    if not isinstance(value, (list, tuple)):
        return MISSING
    head, _, rest = path.partition(".")
    if head.isdecimal():
        inside = value[int(head)] if int(head) < len(value) else MISSING
        return find_value(inside, rest) if rest and inside is not MISSING else inside
    values = [find_value(part, path) for part in value]
    return MISSING if any(part is MISSING for part in values) else values


def list_columns(row: dict, prefix: str = "") -> list[str]:
    """List the named columns of a row; those of an object, and of a list of objects, by their dotted names."""
    names = []
    for column, value in row.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            value = value[0]
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            names += list_columns(value, f"{prefix}{column}.")
        elif column:
            names.append(f"{prefix}{column}")
    return names


def get_value(row: dict, column: str, location: str) -> object:
    """Return the value of a column, None if it is missing or NaN. Raises DataError with the nearest existing column."""
    value = find_value(row, column)
    if value is MISSING:
        raise DataError(f"{location}: no column {column!r}{suggest(column, list_columns(row))}")
    return None if isinstance(value, float) and math.isnan(value) else value


def is_empty(value: object) -> bool:
    """Return whether a row has no value in a column: nothing, NaN, only white space or a list of nothing else."""
    if value is MISSING or value is None:
        return True
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return value != value or isinstance(value, str) and not value.strip()


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


def is_number(value: object) -> bool:
    """Return whether a value is a number, and not true or false."""
    return isinstance(value, Number) and not isinstance(value, bool)


def get_text(row: dict, column: str, location: str) -> str:
    """Return a text, the strings of a list joined by spaces. Raises DataError naming the column for anything else.

    A number is read as the text that a csv has of it, because sheets and JSON have the text 10 as a number.
    """
    value, place = get_value(row, column, location), f"{location}: column {column!r}"
    parts = value if isinstance(value, (list, tuple)) else [value]
    if not is_number(value) and any(isinstance(part, Number) for part in parts):
        raise DataError(f"{place} holds a number, not a text")
    return " ".join(to_text(part, place) for part in parts if part is not None)


def get_list(row: dict, column: str, location: str) -> list[str] | None:
    """Return the values of a list, also of one written as text, such as "['a', 'b']"; None for any other value.

    {"choices": [...]}, as Label Studio writes it, is that list.

    Raises DataError for objects, and for what looks like a list and cannot be read as one.
    """
    value, place = get_value(row, column, location), f"{location}: column {column!r}"
    if isinstance(value, str) and (text := value.strip())[:1] + text[-1:] in ("[]", "{}", "()"):
        value = parse_list(text, place)
    value = get_choices(value)
    if not isinstance(value, (list, tuple)):
        return None
    if None in value:
        raise DataError(f"{place} holds a list with a missing value")
    return [to_text(part, place) for part in value]


def get_choices(value: object) -> object:
    """Return the list in {"choices": [...]}; any other value as it is."""
    return value["choices"] if isinstance(value, dict) and isinstance(value.get("choices"), list) else value


def parse_list(text: str, place: str) -> list | tuple | str:
    """Parse a list or tuple written as JSON or Python; other text in parentheses, or without a comma, remains one.

    Raises DataError.
    """
    value = text
    if len(text) <= MAX_LIST_CHARS and not NUMPY_LIST.search(text):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    value = get_choices(value)
    is_word = text.startswith("(") or value is text and "," not in text and not NUMPY_LIST.search(text)
    if isinstance(value, (list, tuple)) or is_word:
        return value if isinstance(value, (list, tuple)) else text
    kind = "a list" if text.startswith("[") else "an object"
    raise DataError(f"{place} holds {kind} as text: {text[:60]!r}; write a JSON list of labels, or the label alone")


def missing_value_error(location: str, kind: str, column: str) -> OptionError:
    """Return the error for a row without a text or label."""
    problem = f"{location}: no {kind} in column {column!r}"
    return OptionError(problem, "non_empty", f"[{column}]", "{} leaves such rows out")


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
