"""Configuration: YAML files and `key=value` words, merged left to right into frozen, checked sections.

    load(Schema, ["configs/pretrain/default.yaml", "train.steps=200"]) -> Schema

A YAML file may `include:` others (paths relative to itself), which are merged before it. A section whose `name` changes
starts afresh. Nothing here imports torch; a section chosen by name does, when its file is loaded.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

import yaml
from pydantic import (BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveFloat,
                      PositiveInt, SerializeAsAny, SerializerFunctionWrapHandler, ValidationError, ValidationInfo, model_serializer,
                      model_validator)
from pydantic_core import PydanticCustomError

from engine.errors import ConfigError, beside, first_line, nearest


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys forbidden, each attribute's docstring is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True,
                              validate_default=True, protected_namespaces=())
    younger: ClassVar[tuple[str, ...]] = ()
    """Keys that came after fingerprints were made of this section: not told where they say nothing, so that those stay."""

    @model_serializer(mode="wrap")
    def without_younger(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All keys, but for the `younger` ones that have their default."""
        fields = type(self).model_fields
        return {key: value for key, value in told(self).items() if key not in self.younger or value != fields[key].default}

    @model_validator(mode="before")
    @classmethod
    def none_is_nothing(cls, values: Any) -> Any:
        """`none` means nothing wherever a key may be left out; elsewhere (a label's name, say) it is a word."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if value == "none" and key in optional else value for key, value in values.items()}


Schema = TypeVar("Schema", bound=Section)
Share = Annotated[float, Field(ge=0, le=1)]
KIND = re.compile(r"str|int|constrained-\w+|(?:list|literal)\[.*\]")
LATER = "later"  # a first look at a configuration: a section chosen by nothing but a right name is put off
RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Train(Section):
    """The training loop's settings, the same for both stages."""

    steps: PositiveInt
    """Optimizer steps."""
    lr: PositiveFloat
    """Peak learning rate."""
    batch_size: PositiveInt
    """Rows (or examples) of one optimizer step, over all processes."""
    micro_batch: PositiveInt | None = None
    """Rows a process takes through the network at once; none: its whole share. Changes memory, and dropout's draws."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises linearly."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up; linear is Howard and Ruder's slanted triangle."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW, on matrices only."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of AdamW's second moment."""
    clip: PositiveFloat = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    average: Share = 0.0
    """Share of the steps, the last ones, whose weights are averaged; the mean is what is evaluated and kept."""
    precision: Literal["native", "bf16", "float32"] = "native"
    """Arithmetic of the matrix products; native: bf16 where the machine multiplies it in hardware, else float32."""
    log_every: PositiveInt = 10
    """Steps between lines of log.jsonl."""
    eval_every: PositiveInt = 100
    """Steps between evaluations."""
    save_every: PositiveInt = 200
    """Steps between checkpoints."""
    keep: PositiveInt = 2
    """Checkpoints kept, the newest ones."""
    most_skipped: PositiveInt = 10
    """Steps in a row without a finite loss and gradient, whose updates are left out, after which the run ends."""
    spike: Annotated[float, Field(gt=1)] | None = None
    """A step whose loss is so many times the usual one is left out too; none: any finite loss is learned from."""
    replay: PositiveInt | None = None
    """A step whose batch was kept in nan-step-N: it is looked at again, and nothing is trained."""
    check: bool = False
    """Whether only to look: is everything there, and is there room and memory? --check says the same."""


# ---- YAML and words -------------------------------------------------------------------------------------------------

class Loader(yaml.SafeLoader):
    """YAML with the numbers and truth values people mean: `1e-4` is a number, `no` is a word, a key stands once."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] in ("null", "int", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"), list("-+0123456789."))


class Dumper(yaml.SafeDumper):
    """YAML in which a word that Loader would read as a number stands in quotes."""


Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + Loader.yaml_implicit_resolvers.get(first, [])
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | Loader.yaml_implicit_resolvers.keys()}


def parse(text: str, where: str) -> Any:
    """Text as YAML. Raises ConfigError with the line of the mistake."""
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # of a number too long, a tag that does not fit, ...
        raise ConfigError(f"{where}: not valid YAML: {first_line(error)}") from None


def read_yaml(path: Path, chain: tuple[Path, ...] = ()) -> dict:
    """One YAML file with its includes merged beneath it. Raises ConfigError if missing, not a mapping, or circular."""
    path = Path(path)
    if not os.path.isfile(path):  # which says no to what can be no name at all
        raise ConfigError(f"{path}: no such file{nearest(path.name, beside(path, '*.yaml'))}")
    if path.resolve() in chain:
        raise ConfigError(f"{path}: includes itself")
    try:
        content = parse(path.read_text(encoding="utf-8"), str(path))
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
        merged = merge(merged, read_yaml(path.parent / name, (*chain, path.resolve())))
    return merge(merged, content)


def merge(below: dict, above: dict) -> dict:
    """`above` laid over `below`, section by section; a section whose `name` changes starts afresh."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            afresh = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = value if afresh else merge(old, value)
        else:
            merged[key] = value
    return merged


def load(schema: type[Schema], words: list[str]) -> Schema:
    """The configuration that YAML paths and `key=value` words describe. Raises ConfigError naming every mistake."""
    tree: dict = {}
    for word in words:
        # A file's name may hold a =, and a key's value may be the name of a file; a key holds no /.
        named = word.endswith((".yaml", ".yml")) and ("/" in word.partition("=")[0] or os.path.isfile(word))
        if "=" in word and not named:
            key, _, text = word.partition("=")
            value = parse(text, key)
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = merge(tree, value)
        elif word.endswith((".yaml", ".yml")):
            tree = merge(tree, read_yaml(Path(word)))
        else:
            raise ConfigError(f"{word}: neither a .yaml file nor key=value")
    return check(schema, tree)


def check(schema: type[Schema], tree: dict) -> Schema:
    """`tree` as a `schema`. Raises ConfigError with one line for each mistake."""
    try:  # without what takes seconds to load, if there are mistakes that can be told so
        return schema.model_validate(tree, context=LATER)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if problem["type"] != LATER]
    if not problems:
        try:
            return schema.model_validate(tree)
        except ValidationError as error:
            problems = error.errors()
    raise ConfigError(lines(schema, problems))


def lines(schema: type[Section], problems: list[dict]) -> str:
    """One line for each key that pydantic's problems are about."""
    from engine.explain import explain  # which reads the schema, and so imports this file
    told: dict[str, dict[str, None]] = {}
    for problem in problems:
        # A key that takes one of two kinds of value has a problem for each, under pydantic's names for the kinds.
        problem["loc"] = tuple(part for part in problem["loc"] if not KIND.fullmatch(str(part)))
        key, _, message = explain(schema, problem).partition(": ")
        told.setdefault(key, {})[message] = None
    return "\n".join(f"{key}: {', and '.join(messages)}".removeprefix(": ") for key, messages in told.items())


def dump(config: Section) -> str:
    """The configuration as YAML that `load` reads back to the same thing."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


# ---- sections chosen by name ----------------------------------------------------------------------------------------

def plugins(package: str) -> list[str]:
    """The files of a package, by name: the folder is the list."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


class Choice(NamedTuple):
    """What a section chosen by name is marked with."""

    package: str
    default: str


def Plugin(package: str, default: str):
    """The type of a section whose `name` picks one file of `package`, checked by that file's `Config`."""
    def choose(value: Any, info: ValidationInfo) -> Section:
        if isinstance(value, Section):
            return value
        value = {"name": default, **value} if isinstance(value, dict) else value
        name = value.get("name") if isinstance(value, dict) else None
        if name not in plugins(package):
            what = package.rsplit(".", 1)[1]
            raise ValueError(f"no {name!r} among the {what}{nearest(name, plugins(package))}")
        if info.context == LATER and len(value) == 1:
            raise PydanticCustomError(LATER, LATER)
        return importlib.import_module(f"{package}.{name}").Config.model_validate(value)
    return Annotated[SerializeAsAny[Section], BeforeValidator(choose), Choice(package, default)]
