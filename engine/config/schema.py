"""TODO."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engine.errors import suggest


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys forbidden, each attribute's docstring is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, protected_namespaces=()
    )
    help_first: ClassVar[tuple[str, ...]] = ()
    """Keys and sections that `--help` lists first."""
    resumable: ClassVar[tuple[str, ...]] = ()
    """Keys a run may be resumed with other values of: they change what is written when, not what is learned."""
    added_later: ClassVar[tuple[str, ...]] = ()
    """Keys that came after fingerprints were made of this section: not told where they say nothing, so that those stay."""

    @model_serializer(mode="wrap")
    def omit_added_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All keys, but for the `younger` ones that have their default."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in handler(self).items()
            if key not in self.added_later or value != fields[key].default
        }

    @model_validator(mode="before")
    @classmethod
    def parse_none(cls, values: Any) -> Any:
        """`none` means nothing wherever a key may be left out; elsewhere (a label's name, say) it is a word."""
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


DEFERRED = "later"  # a first look at a configuration: a section chosen by nothing but a right name is put off


RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


def list_plugins(package: str) -> list[str]:
    """The files of a package, by name: the folder is the list."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


class PluginChoice(NamedTuple):
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
        if name not in list_plugins(package):
            what = package.rsplit(".", 1)[1]
            raise ValueError(f"no {name!r} among the {what}{suggest(name, list_plugins(package))}")
        if info.context == DEFERRED and len(value) == 1:
            raise PydanticCustomError(DEFERRED, DEFERRED)
        return importlib.import_module(f"{package}.{name}").Config.model_validate(value)

    return Annotated[SerializeAsAny[Section], BeforeValidator(choose), PluginChoice(package, default)]
