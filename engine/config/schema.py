"""Building blocks of configuration schemas: sections, common field types, and sections chosen by name."""

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engine.errors import ConfigError, suggest
from engine.sanitize import redact_credentials


class Section(BaseModel):
    """A section of the configuration: frozen, without unknown keys. A field's docstring is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, protected_namespaces=()
    )
    resumable: ClassVar[tuple[str, ...]] = ()
    """Keys that may change when a run is resumed, because they do not affect what is learned."""
    help_first: ClassVar[tuple[str, ...]] = ()
    """Keys and sections that `--help` lists first."""
    added_later: ClassVar[tuple[str, ...]] = ()
    """Keys newer than existing fingerprints, which stay valid because defaults of these keys are not serialized."""

    presets: ClassVar[dict[str, Path]] = {}
    """Folders of YAML files by the key that names one of them, which is then loaded too."""

    @classmethod
    def choose_schema(cls, tree: dict) -> type["Section"]:
        """Return the schema to validate `tree` with, for example that of a modality it names."""
        return cls

    @model_serializer(mode="wrap")
    def omit_added_later_defaults(self, handler, info) -> dict[str, Any]:
        """Serialize all keys except `added_later` ones with their default; without credentials to JSON, for files."""
        fields = type(self).model_fields
        kept = {k: v for k, v in handler(self).items() if k not in self.added_later or v != fields[k].default}
        return redact_credentials(kept) if info.mode == "json" else kept

    @model_validator(mode="before")
    @classmethod
    def parse_none(cls, values: Any) -> Any:
        """Parse `none` as None in optional fields; elsewhere, as in a label name, it is a string."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if value == "none" and key in optional else value for key, value in values.items()}


def resumable_keys(section: Section, prefix: str = "") -> set[str]:
    """Collect the `resumable` keys of a section and of all sections in it, as dotted keys."""
    keys = {prefix + key for key in section.resumable}
    for key, value in section:
        if isinstance(value, Section):
            keys |= resumable_keys(value, f"{prefix}{key}.")
    return keys


Schema = TypeVar("Schema", bound=Section)
Fraction = Annotated[float, Field(ge=0, le=1)]


def numbers_to_words(value: Any) -> Any:
    """Return a mapping with whole numbers as words, as people write the names of numbered classes."""

    def to_word(part: Any) -> Any:
        return str(part) if type(part) is int else part

    return {to_word(key): to_word(name) for key, name in value.items()} if isinstance(value, dict) else value


WordMapping = Annotated[dict[str, str], BeforeValidator(numbers_to_words)]


def check_length(name: str) -> str:
    """Return a name. Raises ValueError if a file with it and a suffix could not be written."""
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise ValueError(f"has more than {MAX_NAME_BYTES} bytes")
    return name


MAX_NAME_BYTES = 128
FILE_NAME_PATTERN = r"^\w[\w.-]*$"  # a folder: no separators
FileName = Annotated[str, Field(pattern=FILE_NAME_PATTERN), AfterValidator(check_length)]
DEFERRED = "deferred"  # validation context that does not import sections of which only a valid name is given


def list_plugins(package: str) -> list[str]:
    """List the modules of a package."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


class PluginChoice(NamedTuple):
    """Annotation of a section chosen by name."""

    package: str
    default: str


def Plugin(package: str, default: str):  # noqa: N802  a type, used in annotations
    """Make the type of a section with a `name` of a module in `package`, validated by that module's `Config`."""

    def choose(value: Any, info) -> Section:
        if isinstance(value, Section):
            return value
        value = {"name": default, **value} if isinstance(value, dict) else value
        name = value.get("name") if isinstance(value, dict) else None
        if name not in list_plugins(package):
            kind = package.rsplit(".", 1)[1]
            raise ValueError(f"no {name!r} among the {kind}{suggest(name, list_plugins(package))}")
        if info.context == DEFERRED:
            raise PydanticCustomError(DEFERRED, DEFERRED, {"module": f"{package}.{name}", "value": value})
        return importlib.import_module(f"{package}.{name}").Config.model_validate(value)

    return Annotated[SerializeAsAny[Section], BeforeValidator(choose), PluginChoice(package, default)]


def PluginName(package: str):  # noqa: N802  a type, used in annotations
    """Make the type of a key with the name of a module in `package`."""

    def check(value: str) -> str:
        names = list_plugins(package)
        if value not in names:
            raise ValueError(f"no {value!r}{suggest(value, names)}")
        return value

    return Annotated[str, AfterValidator(check)]


def choose_plugin_schema(package: str, key: str, section: dict) -> type[Section]:
    """Return the `Config` of the module in `package` that the last part of `key` names in a section; text by default.

    Raises ConfigError if there is no such module.
    """
    name, names = section.get(key.rpartition(".")[2], "text"), list_plugins(package)
    if name not in names:
        raise ConfigError(f"{key}: no {name!r}{suggest(name, names)}")
    return importlib.import_module(f"{package}.{name}").Config
