"""Rows of one JSON object: a list under a key, or a table by rows or columns, as pandas and `datasets` write it."""

from engine.errors import suggest

ROWS_KEYS = ("data", "rows", "records", "examples", "samples", "items", "entries", "documents")
"""Keys under which an object holds rows next to others, such as a version."""


def get_rows(content: dict, field: str | None = None) -> list:
    """Return the rows of an object. field: dotted name of the value that holds them; none: found by its form.

    Raises ValueError if there is no such field, or more than one list of rows.
    """
    if field:
        for part in field.split("."):
            if not isinstance(content, dict) or part not in content:
                raise ValueError(f"no field {part!r}{suggest(part, content if isinstance(content, dict) else ())}")
            content = content[part]
        return content if isinstance(content, list) else find_rows(content)
    return find_rows(content)


def find_rows(content: dict) -> list:
    """Return the rows of an object that is a table, or the object itself as the only row."""
    values = list(content.values())
    if content.keys() >= {"columns", "data"} and is_list_of(content["data"], list):  # orient="split"
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    tables = [name for name, value in content.items() if is_list_of(value, dict)]
    if len(tables) == 1 and (len(values) == 1 or tables[0] in ROWS_KEYS):
        return content[tables[0]]
    if len(tables) > 1 and len(tables) == len(values):
        raise ValueError(f"lists of rows under {', '.join(tables)}; set field to one of them")
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        return values if is_table_of_rows(content) else columns_to_rows(content)
    if len(values) > 1 and all(isinstance(value, list) for value in values) and len(set(map(len, values))) == 1:
        return columns_to_rows({name: dict(enumerate(value)) for name, value in content.items()})
    return [content]


def is_list_of(value: object, kind: type) -> bool:
    """Return whether a value is a list of at least one `kind`, and of nothing else."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, kind) for part in value)


def is_table_of_rows(content: dict) -> bool:
    """Return whether objects under keys are rows, rather than the columns of `DataFrame.to_json()`, numbered inside."""
    first = next(iter(content.values()))
    is_numbered = bool(first) and all(str(name).isdecimal() for name in first)
    same_rows = all(value.keys() == first.keys() for value in content.values())
    return not (is_numbered and same_rows) or all(str(name).isdecimal() for name in content)


def columns_to_rows(columns: dict[str, dict]) -> list[dict]:
    """Return the rows of columns {name: {row: value}}."""
    rows = next(iter(columns.values()))
    return [{name: values[row] for name, values in columns.items()} for row in rows]
