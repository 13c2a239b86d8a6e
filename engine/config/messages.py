"""One line for each mistake in a configuration: the key, the problem, and the nearest right key."""

import re

from engine.config.help import list_keys
from engine.config.renamed import find_new_key, find_new_value
from engine.config.schema import FILE_NAME_PATTERN, Section
from engine.errors import suggest

EXPECTED = {
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "a section with keys"),
    "string_type": "a word",
    "list_type": "a list",
    "dict_type": "a mapping",
}
"""pydantic's error type -> the kind of value that is expected."""


def format_error(schema: type[Section], error: dict) -> str:
    """Format one of pydantic's errors as one line."""
    key, kind, value = ".".join(map(str, error["loc"])), error["type"], error.get("input")
    if line := find_new_value(key, value):
        return line
    if kind == "extra_forbidden":
        return format_unknown_key(schema, error["loc"])
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{key}: {value!r} is none of {', '.join(choices)}{suggest(value, choices)}"
    if kind == "string_type" and value is None:  # KEY= on the command line
        return f"{key}: has no value"
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] == FILE_NAME_PATTERN:
        return f"{key}: {value!r} is not a name of letters, digits, '_', '.' and '-', the first a letter or a digit"
    if kind in EXPECTED:
        return f"{key}: {value!r} is not {EXPECTED[kind]}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{key}: {message}" if kind == "value_error" else f"{key}: {message}, not {value!r}"


def format_unknown_key(schema: type[Section], location: tuple[str | int, ...]) -> str:
    """Format a key that the schema lacks: its new name if it was renamed, else the nearest key."""
    *section, leaf = map(str, location)
    key, known = ".".join([*section, leaf]), list(list_keys(schema))
    new = find_new_key(location)
    plain = new and re.sub(r"[.]\d+(?=[.])", "[]", new)
    if plain and any(other == plain or other.startswith(f"{plain}.") for other in known):
        return f"{key}: is now {new}"
    if section and key in known:  # a key of another plugin than the one that is named
        return f"{key}: no key of this {section[0]}; set {'.'.join(section)}.name"
    inside = [other for other in known if other.startswith(".".join(section))] if section else known
    close = suggest(key, inside if len(inside) > 1 else known)
    if "nearest" not in close:
        same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
        close = f" (nearest: {same_leaf[-1]})" if same_leaf else close
    return f"{key}: no such key{close}"
