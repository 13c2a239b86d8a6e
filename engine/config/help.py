"""The list of configuration keys that `--help` prints: by section, the sections people set first."""

import ast
import importlib.util
import textwrap
import types
from functools import lru_cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from engine.config.schema import PluginChoice, Section, list_plugins
from engine.errors import ConfigError, suggest

WIDTH = 120
Keys = dict[str, tuple[str, str]]  # key -> (default, meaning)


def get_section_type(annotation: Any) -> type[Section] | None:
    """Return the section a field holds, looking through Optional and lists; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next(filter(None, map(get_section_type, get_args(annotation))), None)
    return None


def list_keys(schema: type[Section], prefix: str = "") -> Keys:
    """List every key of a schema with its default and its meaning."""
    keys: Keys = {}
    for name, field in schema.model_fields.items():
        choice = next((note for note in field.metadata if isinstance(note, PluginChoice)), None)
        if choice:
            keys |= {f"{prefix}{name}.{key}": entry for key, entry in list_plugin_keys(choice).items()}
            continue
        section, is_list = get_section_type(field.annotation), get_origin(field.annotation) is list
        if section and not is_list:
            keys |= list_keys(section, f"{prefix}{name}.")
            continue
        default = "(needed)" if field.is_required() else format_default(field.get_default(call_default_factory=True))
        keys[f"{prefix}{name}"] = default, " ".join((field.description or "").split())
        if section:
            keys |= list_keys(section, f"{prefix}{name}[].")
    return keys


def list_plugin_keys(choice: PluginChoice) -> Keys:
    """List the keys of all files that may be chosen; a key that only some files have names these files.

    The default is that of the file chosen by default, or of the first file that has the key.
    """
    plugins = sorted(list_plugins(choice.package), key=lambda plugin: plugin != choice.default)
    variants: dict[str, dict[tuple[str, str], list[str]]] = {}
    for plugin in plugins:
        for key, entry in fields_from_source(f"{choice.package}.{plugin}").items():
            variants.setdefault(key, {}).setdefault(entry, []).append(plugin)
    keys: Keys = {}
    for key, entries in variants.items():
        (default, meaning), owners = next(iter(entries.items()))
        if key == "name":
            meaning = " ".join(meaning for _, meaning in entries)
        elif len(owners) < len(plugins):
            meaning = " ".join(
                f"{', '.join(names)}: {text}" + (f" Default: {other}." if other != default else "")
                for (other, text), names in entries.items()
            )
        keys[key] = default, meaning
    return {"name": keys.pop("name"), **keys}


@lru_cache
def parse_module(module: str) -> ast.Module:
    """Parse the source of a module without importing it."""
    return ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))


def fields_from_source(module: str, section: str = "Config") -> Keys:
    """List the keys of a section by reading its source, because importing a plugin would load torch.

    Base classes (`class Config(mlm.Config)`) and nested sections are read likewise; defaults must be plain values.
    """
    tree = parse_module(module)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imports = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def resolve(name: str) -> tuple[str, str] | None:
        """Return (module, class) of a class of this project by the name it has in this file."""
        file, _, attribute = name.rpartition(".")
        if file:
            target = (".".join(imports[file]), attribute) if file in imports else None
        else:
            target = (module, name) if name in classes else imports.get(name)
        return target if target and is_same_project(module, target[0]) else None

    keys: Keys = {}
    for base in map(ast.unparse, classes[section].bases):
        if (target := resolve(base)) and target[1] != "Section":
            keys |= fields_from_source(*target)
    body = classes[section].body
    for field, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            targets = [resolve(node.id) for node in ast.walk(field.annotation) if isinstance(node, ast.Name)]
            sections = [target for target in targets if target and defines_class(*target)]
            for target in sections:
                keys |= {f"{field.target.id}.{key}": entry for key, entry in fields_from_source(*target).items()}
            if not sections:
                default = format_default(ast.literal_eval(field.value)) if field.value else "(needed)"
                has_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                keys[field.target.id] = default, " ".join(following.value.value.split()) if has_text else ""
    return keys


@lru_cache
def is_same_project(module: str, other: str) -> bool:
    """Whether the top-level packages of two modules are in the same folder."""
    specs = [importlib.util.find_spec(name.partition(".")[0]) for name in (module, other)]
    folders = [
        spec and spec.submodule_search_locations and Path(*spec.submodule_search_locations).parent for spec in specs
    ]
    return bool(folders[0]) and folders[0] == folders[1]


def defines_class(module: str, name: str) -> bool:
    """Whether a file defines a class of that name; other names in an annotation stand for plain values."""
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in parse_module(module).body)


def format_default(value: object) -> str:
    """Format a default as it is written in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else "" if value in ([], {}) else str(value)


def help_text(schema: type[Section], module: str, example: str, section: str | None = None) -> str:
    """Format what `python -m MODULE --help` prints, or `--help SECTION`. Raises ConfigError for an unknown section."""
    groups = group_keys(schema)
    if section is None:
        parts = [
            (schema.__doc__ or "").strip().splitlines()[0],
            f"  python -m {module} FILE.yaml ... key=value ...      later values win\n"
            f"  python -m {module} {example}\n"
            f"  python -m {module} --help SECTION                   one section of the keys below",
        ]
    elif section in groups:
        groups, parts = {section: groups[section]}, []
    else:
        raise ConfigError(f"--help: no section {section!r}{suggest(section, groups)}; there are {', '.join(groups)}")
    width = max(len(key) for keys in groups.values() for key in keys) + 2
    return "\n\n".join([*parts, *(format_group(name, keys, width) for name, keys in groups.items())])


def group_keys(schema: type[Section]) -> dict[str, Keys]:
    """Group the keys by section: first what `schema.help_first` names, then the other plain keys, then the rest.

    A key of a section inside another that repeats a key listed elsewhere, as those of a data source do, is left out
    for one line that refers to it.
    """
    keys = list_keys(schema)
    tops = [key.partition(".")[0].removesuffix("[]") for key in keys]
    first = [name for name in schema.help_first if name in tops]
    ordered = [*first, *sorted(dict.fromkeys(top for top in tops if top not in first), key=lambda top: top not in keys)]
    groups: dict[str, Keys] = {}
    for name in ordered:
        own = {key: entry for key, entry in keys.items() if key.partition(".")[0].removesuffix("[]") == name}
        groups.setdefault("general" if name in keys else name, {}).update(own)
    by_leaf = {}
    for key, (default, meaning) in keys.items():
        by_leaf.setdefault((key.rpartition(".")[2], default, meaning), key)
    for group in groups.values():
        repeated: dict[tuple[str, str], list[str]] = {}
        for key, (default, meaning) in list(group.items()):
            prefix, _, leaf = key.rpartition(".")
            other = by_leaf.get((leaf, default, meaning.partition(": ")[2])) or by_leaf[leaf, default, meaning]
            if other != key and "." in prefix:
                repeated.setdefault((prefix, other.rpartition(".")[0]), []).append(key)
        for (prefix, other), names in repeated.items():
            if len(names) > 3:
                for key in names:
                    del group[key]
                leaves = ", ".join(key.rpartition(".")[2] for key in names)
                group[f"{prefix}.*"] = "", f"As {other}.*: {leaves}."
    return groups


def format_group(name: str, keys: Keys, width: int) -> str:
    """Format a heading and one entry for each key."""
    lines = [f"{name}:"]
    for key, (default, meaning) in keys.items():
        start = f"  {key:<{width}}{default:<12} "
        indent = " " * (width + 15)
        lines += textwrap.wrap(meaning, WIDTH, initial_indent=start, subsequent_indent=indent) or [start.rstrip()]
    return "\n".join(lines)
