"""What a person reads of a configuration: one line for a mistake in it, and the list of keys that `--help` prints."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from engine.config import Section, plugins
from engine.errors import nearest


def explain(schema: type[Section], problem: dict) -> str:
    """One line for one of pydantic's errors: the key, what is wrong, and the nearest right one."""
    location = [str(part) for part in problem["loc"]]
    key, kind, value = ".".join(location), problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = list(keys(schema))
        inside = [k for k in known if k.startswith(".".join(location[:-1]))] if location[:-1] else known
        by_leaf = {k.rsplit(".", 1)[-1]: k for k in known}
        close = nearest(key, inside if len(inside) > 1 else known)
        if "nearest" not in close and location[-1] in by_leaf:
            close = f" (nearest: {by_leaf[location[-1]]})"
        return f"{key}: no such key{close}"
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{key}: {value!r} is none of {', '.join(choices)}{nearest(value, choices)}"
    wanted = {"float_parsing": "a number", "float_type": "a number", "int_parsing": "a whole number",
              "int_type": "a whole number", "int_from_float": "a whole number", "bool_parsing": "true or false",
              "bool_type": "true or false", "string_type": "a word", "list_type": "a list", "dict_type": "a mapping",
              "model_type": "a section with keys", "model_attributes_type": "a section with keys"}.get(kind)
    if wanted:
        return f"{key}: {value!r} is not {wanted}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{key}: {message}" if kind == "value_error" else f"{key}: {message}, not {value!r}"


def section_of(annotation: Any) -> type[Section] | None:
    """The section a field holds, looking through Optional and lists; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next(filter(None, map(section_of, get_args(annotation))), None)
    return None


def keys(schema: type[Section], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Every key of a schema with its default and its meaning, as `--help` prints them."""
    found: dict[str, tuple[str, str]] = {}
    for name, field in schema.model_fields.items():
        package = next((note for note in field.metadata if isinstance(note, str)), None)
        if package:
            for plugin in plugins(package):
                found |= {f"{prefix}{name}.{key}": told for key, told in declared(package, plugin).items()}
            continue
        inner, is_list = section_of(field.annotation), get_origin(field.annotation) is list
        meaning = " ".join((field.description or "").split())
        if inner and not is_list:
            found |= keys(inner, f"{prefix}{name}.")
            continue
        default = "(needed)" if field.is_required() else shown_default(field.get_default(call_default_factory=True))
        found[f"{prefix}{name}"] = (default, meaning)
        if inner:
            found |= keys(inner, f"{prefix}{name}[].")
    return found


def declared(package: str, plugin: str) -> dict[str, tuple[str, str]]:
    """The keys of a plugin's `Config`, as `keys` gives them, read from its source: importing it would load torch.

    A `Config` may have another plugin's beneath it (`class Config(mlm.Config)`), and plain values as defaults.
    """
    path = Path(importlib.import_module(package).__path__[0]) / f"{plugin}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    found: dict[str, tuple[str, str]] = {}
    for base in config.bases:
        if ast.unparse(base) != "Section":
            found |= declared(package, ast.unparse(base).partition(".")[0])
    for field, after in zip(config.body, [*config.body[1:], ast.Pass()]):
        if isinstance(field, ast.AnnAssign):
            default = shown_default(ast.literal_eval(field.value)) if field.value else "(needed)"
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[field.target.id] = (default, " ".join(after.value.value.split()) if is_text else "")
    return found


def shown_default(value: object) -> str:
    """A default as `--help` prints it."""
    return "none" if value is None else "" if value in ([], {}) else str(value)


def usage(schema: type[Section], module: str, example: str) -> str:
    """What `python -m MODULE --help` prints."""
    lines = [(schema.__doc__ or "").strip().splitlines()[0], "",
             f"  python -m {module} FILE.yaml ... key=value ...      later ones win",
             f"  python -m {module} {example}", "", "Every key, its default without a file, and what it means:", ""]
    every = keys(schema)
    wide = max(map(len, every)) + 2
    for key, (default, meaning) in every.items():
        head = f"  {key:<{wide}}{default:<12} "
        lines += textwrap.wrap(meaning, 130, initial_indent=head, subsequent_indent=" " * (wide + 15)) or [head.rstrip()]
    return "\n".join(lines)
