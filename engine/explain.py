"""What a person reads of a configuration: one line for a mistake in it, and the list of keys that `--help` prints."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from engine.config import Choice, Section, plugins
from engine.errors import ConfigError, nearest

OURS = ("engine", "data", "pretrain", "finetune")


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
        choice = next((note for note in field.metadata if isinstance(note, Choice)), None)
        if choice:
            found |= {f"{prefix}{name}.{key}": told for key, told in of_plugins(choice).items()}
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


def of_plugins(choice: Choice) -> dict[str, tuple[str, str]]:
    """The keys of all files that may be chosen, as `keys` gives them; of one that not all have alike, whose it is.

    The default is that of the file taken when nothing is said, or of the first that has the key.
    """
    files = sorted(plugins(choice.package), key=lambda plugin: plugin != choice.default)
    every: dict[str, dict[tuple[str, str], list[str]]] = {}
    for plugin in files:
        for key, told in declared(f"{choice.package}.{plugin}").items():
            every.setdefault(key, {}).setdefault(told, []).append(plugin)
    found = {}
    for key, ways in every.items():
        (default, meaning), alike = next(iter(ways.items()))
        if key == "name":
            meaning = " ".join(own for _, own in ways)
        elif len(alike) < len(files):
            meaning = " ".join(f"{', '.join(whose)}: {own}" + f" Its default is {other}." * (other != default)
                               for (other, own), whose in ways.items())
        found[key] = default, meaning
    return found


def declared(module: str, section: str = "Config") -> dict[str, tuple[str, str]]:
    """The keys of a section of a file, as `keys` gives them, read from its source: importing a plugin would load torch.

    What stands beneath it (`class Config(mlm.Config)`) is read likewise, and sections in it; defaults are plain values.
    """
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {name.asname or name.name: (node.module, name.name) for node in tree.body
                if isinstance(node, ast.ImportFrom) for name in node.names}

    def where(written: str) -> tuple[str, str] | None:
        """(module, class) of one of our classes, by the name it has here."""
        file, _, name = written.rpartition(".")
        if file:
            found = (".".join(imported[file]), name) if file in imported else None
        else:
            found = (module, written) if written in classes else imported.get(written)
        return found if found and found[0].split(".")[0] in OURS else None

    found: dict[str, tuple[str, str]] = {}
    for base in map(ast.unparse, classes[section].bases):
        if (above := where(base)) and above[1] != "Section":
            found |= declared(*above)
    body = classes[section].body
    for field, after in zip(body, [*body[1:], ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            inside = [where(node.id) for node in ast.walk(field.annotation) if isinstance(node, ast.Name)]
            sections = [each for each in inside if each and is_section(*each)]
            for each in sections:
                found |= {f"{field.target.id}.{key}": told for key, told in declared(*each).items()}
            if not sections:
                default = shown_default(ast.literal_eval(field.value)) if field.value else "(needed)"
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                found[field.target.id] = (default, " ".join(after.value.value.split()) if is_text else "")
    return found


def constant(module: str, name: str) -> object:
    """A plain value that a file gives a name at its top, read from its source. Raises ConfigError for no such file."""
    package, _, plugin = module.rpartition(".")
    if plugin not in plugins(package):
        what = package.rpartition(".")[2]
        raise ConfigError(f"{what.removesuffix('s')}: no {plugin!r} among the {what}{nearest(plugin, plugins(package))}")
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    return next(ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)


def is_section(module: str, name: str) -> bool:
    """Whether a file defines a class of that name; types of plain values are names for something else."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


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
