"""Configuration: YAML files and `key=value` words, merged left to right into frozen, checked sections.

    load(Schema, ["configs/pretrain/default.yaml", "train.steps=200"]) -> Schema

A YAML file may `include:` others (paths relative to itself), which are merged before it. A section whose `name` changes
starts afresh. Nothing here imports torch; a section chosen by name does, when its file is loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.config.schema import DEFERRED, Schema, Section
from engine.errors import ConfigError, first_line, list_siblings, suggest

PYDANTIC_TYPE_NAME = re.compile(r"str|int|constrained-\w+|(?:list|literal)\[.*\]")


# ---- YAML and words -------------------------------------------------------------------------------------------------


class YamlLoader(yaml.SafeLoader):
    """YAML with the numbers and truth values people mean: `1e-4` is a number, `no` is a word, a key stands once."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] in ("null", "int", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


class YamlDumper(yaml.SafeDumper):
    """YAML in which a word that Loader would read as a number stands in quotes."""


YamlDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + YamlLoader.yaml_implicit_resolvers.get(first, [])
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | YamlLoader.yaml_implicit_resolvers.keys()
}


def parse_yaml(text: str, source_name: str) -> Any:
    """Text as YAML. Raises ConfigError with the line of the mistake."""
    try:
        return yaml.load(text, YamlLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source_name}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # of a number too long, a tag that does not fit, ...
        raise ConfigError(f"{source_name}: not valid YAML: {first_line(error)}") from None


def read_yaml(path: Path, include_chain: tuple[Path, ...] = ()) -> dict:
    """One YAML file with its includes merged beneath it. Raises ConfigError if missing, not a mapping, or circular."""
    path = Path(path)
    if not os.path.isfile(path):  # which says no to what can be no name at all
        raise ConfigError(f"{path}: no such file{suggest(path.name, list_siblings(path, '*.yaml'))}")
    if path.resolve() in include_chain:
        raise ConfigError(f"{path}: includes itself")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not keys and values")
    includes = content.pop("include", [])
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise ConfigError(f"{path}: include must be a file name or a list of them")
    merged: dict = {}
    for name in includes:
        merged = merge(merged, read_yaml(path.parent / name, (*include_chain, path.resolve())))
    return merge(merged, content)


def merge(base: dict, override: dict) -> dict:
    """`override` laid over `base`, section by section; a section whose `name` changes starts afresh."""
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            afresh = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = value if afresh else merge(old, value)
        else:
            merged[key] = value
    return merged


def load_config(schema: type[Schema], args: list[str]) -> Schema:
    """The configuration that YAML paths and `key=value` words describe. Raises ConfigError naming every mistake."""
    tree: dict = {}
    for word in args:
        # A file's name may hold a =, and a key's value may be the name of a file; a key holds no /.
        named = word.endswith((".yaml", ".yml")) and ("/" in word.partition("=")[0] or os.path.isfile(word))
        if "=" in word and not named:
            key, _, text = word.partition("=")
            value = parse_yaml(text, key)
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = merge(tree, value)
        elif word.endswith((".yaml", ".yml")):
            tree = merge(tree, read_yaml(Path(word)))
        else:
            raise ConfigError(f"{word}: neither a .yaml file nor key=value")
    return validate(schema, tree)


def validate(schema: type[Schema], tree: dict) -> Schema:
    """`tree` as a `schema`. Raises ConfigError with one line for each mistake."""
    try:  # without what takes seconds to load, if there are mistakes that can be told so
        return schema.model_validate(tree, context=DEFERRED)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if problem["type"] != DEFERRED]
    if not problems:
        try:
            return schema.model_validate(tree)
        except ValidationError as error:
            problems = error.errors()
    raise ConfigError(format_errors(schema, problems))


def format_errors(schema: type[Section], errors: list[dict]) -> str:
    """One line for each key that pydantic's problems are about."""
    from engine.config.messages import format_error  # which reads the schema, and so imports this file

    told: dict[str, dict[str, None]] = {}
    for problem in errors:
        # A key that takes one of two kinds of value has a problem for each, under pydantic's names for the kinds.
        problem["loc"] = tuple(part for part in problem["loc"] if not PYDANTIC_TYPE_NAME.fullmatch(str(part)))
        key, _, message = format_error(schema, problem).partition(": ")
        told.setdefault(key, {})[message] = None
    return "\n".join(f"{key}: {', and '.join(messages)}".removeprefix(": ") for key, messages in told.items())


def dump_config(config: Section) -> str:
    """The configuration as YAML that `load_config` reads back to the same thing."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=120)


# ---- sections chosen by name ----------------------------------------------------------------------------------------
