"""Load configurations: YAML files and `key=value` arguments, merged left to right into frozen, validated sections.

A YAML file may `include:` others (paths relative to itself), which are merged before it. A section of a file, or one
given whole, replaces an earlier one with another `name`. A name among single `key=value` arguments does so where it is
the choice of a head or the like, or where all that the section needs is given; it never removes another argument.

Nothing here imports torch, but loading a section chosen by name does.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.config.help import fields_from_source, get_section_type
from engine.config.messages import format_error
from engine.config.schema import DEFERRED, Schema, Section
from engine.errors import ConfigError, first_line, list_siblings, suggest

PYDANTIC_TYPE_NAME = re.compile(r"str|int|constrained-\w+|(?:list|literal)\[.*\]")

MAX_NODES, MAX_MISTAKES, MAX_INCLUDES = 20_000, 100, 1_000
YAML_MARKS = "|>#-,:*&!%@`?"
"""Characters with a meaning in YAML; an argument that is one of them alone, such as a delimiter, is that character."""


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2 scalars, unlike YAML 1.1: `1e-4` is a number and `no` is a string. Duplicate keys are errors.

    A document has at most MAX_NODES values, each alias counting as all that it repeats.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.num_nodes, self.sizes = 0, {}

    def compose_node(self, parent, index):
        """Compose a node, and count it or what its alias repeats."""
        before, is_alias = self.num_nodes, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.num_nodes += self.sizes.get(id(node), 0) if is_alias else 1
        if not is_alias:
            self.sizes[id(node)] = self.num_nodes - before
        if self.num_nodes > MAX_NODES:
            problem = f"over {MAX_NODES:,} values, counting what aliases repeat"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node

    def construct_mapping(self, node, deep=False):
        """Build a mapping after checking its keys."""
        seen = set()
        for key in (self.construct_object(key, True) for key, _ in node.value if not key.tag.endswith(":merge")):
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")  # 02134 is a postal code, and 12:30 a time, in a column
FLOAT = re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$")
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:int", INT, list("-+0123456789"))
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


class YamlDumper(yaml.SafeDumper):
    """Quotes strings that YamlLoader would read as numbers."""


YamlDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + YamlLoader.yaml_implicit_resolvers.get(first, [])
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | YamlLoader.yaml_implicit_resolvers.keys()
}


def parse_yaml(text: str, source_name: str) -> Any:
    """Parse YAML. Raises ConfigError with the line of the mistake."""
    try:
        return yaml.load(text, YamlLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{source_name}{line}: not valid YAML: {problem}") from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:  # as for a huge number
        raise ConfigError(f"{source_name}: not valid YAML: {first_line(error)}") from None


def read_yaml(
    path: Path, include_chain: tuple[Path, ...] = (), preset: dict | None = None, included: list[Path] | None = None
) -> dict:
    """Read a YAML file and its includes. Raises ConfigError if it is missing, not a mapping, or includes itself.

    preset: keys that are merged after the includes and before the file's own. included: the files that were read.
    """
    path, included = Path(path), [] if included is None else included
    included.append(path)
    if len(included) > MAX_INCLUDES:
        raise ConfigError(f"{included[0]}: over {MAX_INCLUDES:,} files, counting what is included more than once")
    if not os.path.isfile(path):  # unlike Path.is_file, false for an invalid name
        raise ConfigError(f"{path}: no such file{suggest(path.name, list_siblings(path, '*.yaml'))}")
    if path.resolve() in include_chain:
        raise ConfigError(f"{path}: includes itself")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must contain keys and values, not a {type(content).__name__}")
    includes = content.pop("include", [])
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise ConfigError(f"{path}: include must be a file name or a list of them")
    merged: dict = {}
    for name in includes:
        merged = merge(merged, read_yaml(path.parent / name, (*include_chain, path.resolve()), included=included))
    return merge(merge(merged, preset or {}), content)


def locate_file(name: str, folder: Path) -> Path:
    """Return the path of a YAML file given by its path or its name in a folder."""
    return Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"


def find_file(name: str, folder: Path, key: str) -> Path:
    """Return a YAML file given by its path or its name in a folder. Raises ConfigError with the nearest name."""
    path = locate_file(name, folder)
    if not path.is_file():
        known = [Path(each).stem for each in list_siblings(folder / "x.yaml", "*.yaml")]
        raise ConfigError(f"{key}: {path} does not exist{suggest(path.stem, known)}")
    return path


def merge(base: dict, override: dict, needed: dict[str, set[str]] | None = None) -> dict:
    """Merge `override` into `base`, section by section; another section, with another `name`, replaces the one in base.

    needed: the keys that make it another section, rather than one with a new name; the name alone by default.
    """
    merged, needed = dict(base), needed or {}
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            has_other_name = "name" in value and value["name"] != old.get("name", value["name"])
            if not has_other_name or not needed.get(key, {"name"}) <= value.keys():
                value = merge(old, value, needed)
        merged[key] = value
    return merged


def load_config(schema: type[Schema], args: list[str], preset: dict | None = None) -> Schema:
    """Load a configuration from YAML paths and `key=value` arguments. Raises ConfigError naming every mistake.

    A key of `schema.presets` adds the keys of the file that it names: below those of the YAML file that has it, or
    above those of all YAML files if it is an argument. preset: keys below those of the first YAML file. What a file
    includes is below all of these.
    """
    fields = schema.choose_schema(read_args(args)).model_fields
    sections = {key: section for key, field in fields.items() if (section := get_section_type(field.annotation))}
    needed = {
        key: {"name", *(name for name, field in section.model_fields.items() if field.is_required())}
        for key, section in sections.items()
    }
    files = [arg for arg in args if is_yaml(arg)]
    below = {} if preset is None else {files[0] if files else "": preset}
    tree = read_args(args, needed, below)
    for key, path in find_presets(schema, tree).items():
        if any(arg.partition("=")[0] == key for arg in args if not is_yaml(arg)):
            args = [*files, str(path), *(arg for arg in args if not is_yaml(arg))]
        else:
            owner = next(file for file in reversed(files) if read_yaml(Path(file)).get(key) == tree[key])
            below = {**below, owner: merge(below.get(owner, {}), read_yaml(path))}
        tree = read_args(args, needed, below)
    return validate(schema, tree)


def find_presets(schema: type[Section], tree: dict) -> dict[str, Path]:
    """Return the files that keys of `schema.presets` name, by key. Raises ConfigError for an unknown name."""
    paths = {}
    for key, folder in schema.presets.items():
        name = tree.get(key)
        if isinstance(name, str) and name not in ("none", "auto"):
            paths[key] = folder / f"{name}.yaml"
            if not paths[key].is_file():
                known = sorted(each.stem for each in folder.glob("*.yaml"))
                others = ", ".join(["auto", *known])
                raise ConfigError(f"{key}: no {key} {name!r}{suggest(name, known)} (there are: {others})")
    return paths


def is_yaml(arg: str) -> bool:
    """Return whether an argument is a YAML file: its name may contain "=", and a value may be one; a key has no "/"."""
    key, equals, _ = arg.partition("=")
    return arg.endswith((".yaml", ".yml")) and (not equals or "/" in key or os.path.isfile(arg))


def read_args(args: list[str], needed: dict[str, set[str]] | None = None, below: dict[str, dict] | None = None) -> dict:
    """Merge YAML files and `key=value` arguments, left to right. Raises ConfigError for what is neither.

    Between files, the order of arguments matters only for equal keys. needed: as in `merge`, for single arguments.
    below: keys merged before those of a file itself, and after those it includes, by file; "": before all arguments.
    """
    below = below or {}
    tree, words = dict(below.get("", {})), {}
    for arg in args:
        key, equals, text = arg.partition("=")
        if equals and not is_yaml(arg):
            *sections, leaf = key.split(".")
            is_mark = len(text) == 1 and text in YAML_MARKS
            value = {leaf: text if is_mark else parse_yaml(text, key)}
            if sections or not isinstance(value[leaf], dict):
                inside = words
                for section in sections:
                    if not isinstance(inside.get(section), dict):
                        inside[section] = {}
                    inside = inside[section]
                inside |= value
                continue
        elif is_yaml(arg):
            value = read_yaml(Path(arg), preset=below.get(arg))
        else:
            raise ConfigError(f"{arg}: neither a .yaml file nor key=value")
        tree, words = merge(merge(tree, words, needed), value), {}
    return merge(tree, words, needed)


def validate(schema: type[Schema], tree: dict) -> Schema:
    """Validate `tree` as a `schema`. Raises ConfigError with one line per mistake."""
    schema = schema.choose_schema(tree)
    try:  # first without the sections that take seconds to import, to report other mistakes at once
        return schema.model_validate(tree, context=DEFERRED)
    except ValidationError as error:
        errors = [other for details in error.errors() for other in check_deferred(details)]
    if not errors:
        try:
            return schema.model_validate(tree)
        except ValidationError as error:
            errors = error.errors()
    raise ConfigError(format_errors(schema, errors))


def check_deferred(error: dict) -> list[dict]:
    """Return the errors for the unknown keys of a deferred section, read from its source; any other error as it is."""
    if error["type"] != DEFERRED:
        return [error]
    module, value = error["ctx"]["module"], error["ctx"]["value"]
    known = {key.partition(".")[0].removesuffix("[]") for key in fields_from_source(module)}
    unknown = [key for key in value if key not in known]
    return [{"type": "extra_forbidden", "loc": (*error["loc"], key), "input": value[key]} for key in unknown]


def format_errors(schema: type[Section], errors: list[dict]) -> str:
    """Format pydantic's errors as one line per key."""
    messages_by_key: dict[str, dict[str, None]] = {}
    for error in errors:
        # For a union, pydantic reports an error per type and adds the type's name to the location.
        error["loc"] = tuple(part for part in error["loc"] if not PYDANTIC_TYPE_NAME.fullmatch(str(part)))
        key, _, message = format_error(schema, error).partition(": ")
        messages_by_key.setdefault(key, {})[message] = None
        if len(messages_by_key) == MAX_MISTAKES:
            messages_by_key["more"] = {f"{len(errors)} in all": None}
            break
    return "\n".join(f"{key}: {', and '.join(lines)}".removeprefix(": ") for key, lines in messages_by_key.items())


def dump_config(config: Section) -> str:
    """Dump a configuration as YAML that `load_config` reads back."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=120)
