"""What a person reads of a configuration: one line for a mistake in it, and the list of keys that `--help` prints."""

from __future__ import annotations

import ast
import importlib.util
import textwrap
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from engine.config.schema import PluginChoice, Section, list_plugins


def get_section_type(annotation: Any) -> type[Section] | None:
    """The section a field holds, looking through Optional and lists; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next(filter(None, map(get_section_type, get_args(annotation))), None)
    return None


def list_keys(schema: type[Section], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Every key of a schema with its default and its meaning, as `--help` prints them."""
    found: dict[str, tuple[str, str]] = {}
    for name, field in schema.model_fields.items():
        choice = next((note for note in field.metadata if isinstance(note, PluginChoice)), None)
        if choice:
            found |= {f"{prefix}{name}.{key}": told for key, told in list_plugin_keys(choice).items()}
            continue
        inner, is_list = get_section_type(field.annotation), get_origin(field.annotation) is list
        meaning = " ".join((field.description or "").split())
        if inner and not is_list:
            found |= list_keys(inner, f"{prefix}{name}.")
            continue
        default = "(needed)" if field.is_required() else format_default(field.get_default(call_default_factory=True))
        found[f"{prefix}{name}"] = (default, meaning)
        if inner:
            found |= list_keys(inner, f"{prefix}{name}[].")
    return found


def list_plugin_keys(choice: PluginChoice) -> dict[str, tuple[str, str]]:
    """The keys of all files that may be chosen, as `list_keys` gives them; of one that not all have alike, whose it is.

    The default is that of the file taken when nothing is said, or of the first that has the key.
    """
    files = sorted(list_plugins(choice.package), key=lambda plugin: plugin != choice.default)
    every: dict[str, dict[tuple[str, str], list[str]]] = {}
    for plugin in files:
        for key, told in fields_from_source(f"{choice.package}.{plugin}").items():
            every.setdefault(key, {}).setdefault(told, []).append(plugin)
    found = {}
    for key, ways in every.items():
        (default, meaning), alike = next(iter(ways.items()))
        if key == "name":
            meaning = " ".join(own for _, own in ways)
        elif len(alike) < len(files):
            meaning = " ".join(
                f"{', '.join(whose)}: {own}" + f" Its default is {other}." * (other != default)
                for (other, own), whose in ways.items()
            )
        found[key] = default, meaning
    return found


def fields_from_source(module: str, section: str = "Config") -> dict[str, tuple[str, str]]:
    """The keys of a section of a file, as `list_keys` gives them, read from its source: importing a plugin would load torch.

    What stands beneath it (`class Config(mlm.Config)`) is read likewise, and sections in it; defaults are plain values.
    """
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        name.asname or name.name: (node.module, name.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }

    def where(written: str) -> tuple[str, str] | None:
        """(module, class) of one of our classes, by the name it has here."""
        file, _, name = written.rpartition(".")
        if file:
            found = (".".join(imported[file]), name) if file in imported else None
        else:
            found = (module, written) if written in classes else imported.get(written)
        return found if found and is_beside(module, found[0]) else None

    found: dict[str, tuple[str, str]] = {}
    for base in map(ast.unparse, classes[section].bases):
        if (above := where(base)) and above[1] != "Section":
            found |= fields_from_source(*above)
    body = classes[section].body
    for field, after in zip(body, [*body[1:], ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            inside = [where(node.id) for node in ast.walk(field.annotation) if isinstance(node, ast.Name)]
            sections = [each for each in inside if each and defines_class(*each)]
            for each in sections:
                found |= {f"{field.target.id}.{key}": told for key, told in fields_from_source(*each).items()}
            if not sections:
                default = format_default(ast.literal_eval(field.value)) if field.value else "(needed)"
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                found[field.target.id] = (default, " ".join(after.value.value.split()) if is_text else "")
    return found


def is_beside(module: str, other: str) -> bool:
    """Whether the top-level packages of two modules lie in one folder: Is `other` part of the project?"""
    top, other_top = (importlib.util.find_spec(name.partition(".")[0]) for name in (module, other))
    return bool(other_top and other_top.origin) and Path(top.origin).parents[1] == Path(other_top.origin).parents[1]


def defines_class(module: str, name: str) -> bool:
    """Whether a file defines a class of that name; types of plain values are names for something else."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def format_default(value: object) -> str:
    """A default as `--help` prints it."""
    return "none" if value is None else "" if value in ([], {}) else str(value)


def help_text(schema: type[Section], module: str, example: str) -> str:
    """What `python -m MODULE --help` prints."""
    lines = [
        (schema.__doc__ or "").strip().splitlines()[0],
        "",
        f"  python -m {module} FILE.yaml ... key=value ...      later ones win",
        f"  python -m {module} {example}",
        "",
        "Every key, its default without a file, and what it means:",
        "",
    ]
    every = list_keys(schema)
    wide = max(map(len, every)) + 2
    for key, (default, meaning) in every.items():
        head = f"  {key:<{wide}}{default:<12} "
        lines += textwrap.wrap(meaning, 130, initial_indent=head, subsequent_indent=" " * (wide + 15)) or [
            head.rstrip()
        ]
    return "\n".join(lines)
