"""One line for each mistake in a configuration: the key, the problem, and the nearest right key."""

from __future__ import annotations

import re

from engine.config.help import list_keys
from engine.config.renamed import RENAMED_VALUES, new_key
from engine.config.schema import Section
from engine.errors import suggest


def format_error(schema: type[Section], error: dict) -> str:
    """One line for one of pydantic's errors: the key, what is wrong, and the nearest right one."""
    location = [str(part) for part in error["loc"]]
    key, kind, value = ".".join(location), error["type"], error.get("input")
    if isinstance(value, dict) and (new := RENAMED_VALUES.get((f"{key}.name", value.get("name")))):
        return f"{key}.name: {value['name']} is now {new}"
    if new := RENAMED_VALUES.get((key, value)) if isinstance(value, str) else None:
        return f"{key}: {value} is now {new}"
    if kind == "extra_forbidden":
        known = list(list_keys(schema))
        new = new_key(error["loc"])
        if new and any(
            f"{each}.".replace("[].", ".").startswith(f"{re.sub(r'[.][0-9]+[.]', '.', new)}.") for each in known
        ):
            return f"{key}: is now {new}"
        inside = [k for k in known if k.startswith(".".join(location[:-1]))] if location[:-1] else known
        by_leaf = {k.rsplit(".", 1)[-1]: k for k in known}
        close = suggest(key, inside if len(inside) > 1 else known)
        if "nearest" not in close and location[-1] in by_leaf:
            close = f" (nearest: {by_leaf[location[-1]]})"
        return f"{key}: no such key{close}"
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{key}: {value!r} is none of {', '.join(choices)}{suggest(value, choices)}"
    wanted = {
        "float_parsing": "a number",
        "float_type": "a number",
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "string_type": "a word",
        "list_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a section with keys",
        "model_attributes_type": "a section with keys",
    }.get(kind)
    if wanted:
        return f"{key}: {value!r} is not {wanted}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{key}: {message}" if kind == "value_error" else f"{key}: {message}, not {value!r}"
