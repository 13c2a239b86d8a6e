"""Raw rows become cleaned texts on disk: `out/text/SOURCE-FINGERPRINT/texts-*.parquet`, columns row, text (and id).

A source of many files is read in buckets of them, each a folder of its own: a killed run goes on with the next bucket,
and a file that is added redoes its own bucket only.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.clean import clean
from data.config import Clean, CorpusSource, TaskFile
from data.derived import derive
from data.joined import ahead, grouped, numbers, strings
from data.readers import File
from data.sources import content_of, format_of, hub_rows, identity, local_files, name_of, selected, text_of
from engine.config import load
from engine.record import Progress

BUCKET = 64 * 2**20  # bytes of files read together
FLUSH = 4 * 2**20  # characters of a row group: small, because readers hold several of them at once
PART = 32 * 2**20  # characters of a file


class Bucket(NamedTuple):
    """Files of one source that are read together; none when the source is no file."""

    source: CorpusSource
    clean: Clean
    files: tuple[str, ...]
    inputs: dict
    """What the fingerprint is made of."""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(File.size_of(path) for path in self.files)


def name(source: CorpusSource) -> str:
    """What a person calls the source."""
    return source.task or name_of(source)


def buckets(source: CorpusSource, config: Clean) -> list[Bucket]:
    """The source in parts of about 64 MiB. A file's bucket follows from its path, not from what else there is."""
    told = source.model_dump(mode="json", exclude={"weight", "language", "licence", "files"}) | {
        "clean": config.model_dump(), "version": 3}
    if source.task:
        rows = load(TaskFile, [source.task]).identity()
        return [Bucket(source, config, (), told | {"rows": rows})]
    if source.hub:
        return [Bucket(source, config, (), told | {"rows": identity(source)})]
    files = local_files(source)
    for path in files:
        format_of(source, path)
    sizes = [File.size_of(path) for path in files]
    wanted = -(-sum(sizes) // BUCKET)
    count = 1 << max(0, min(wanted, len(files)) - 1).bit_length()
    parts: dict[int, list[str]] = {}
    for path in files:
        number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % count
        parts.setdefault(number, []).append(path)
    return [Bucket(source, config, tuple(paths), told | {"files": [content_of(path) for path in paths]})
            for _, paths in sorted(parts.items())]


class Reading:
    """One reading of a bucket: its cleaned texts, and what is counted on the way."""

    def __init__(self, bucket: Bucket, tell: Callable[[float], None] = lambda megabytes: None):
        """tell: is told now and then how many MiB have been read."""
        self.bucket, self.tell = bucket, tell
        self.counts = Counter(rows=0, empty=0, documents=0, words=0, characters=0)
        self.mended, self.problems = Counter(), []

    def raw(self) -> Iterator[tuple[str, str | None]]:
        """(text, id or None) of every row; broken files are told in `problems`. Raises DataError for a missing column."""
        source, where = self.bucket.source, name(self.bucket.source)

        def read(row: dict) -> tuple[str, str | None]:
            return text_of(row, source.text, where), text_of(row, source.id, where) if source.id else None

        if source.task:
            rows = load(TaskFile, [source.task]).read()["train"]
            yield from ((text, None) for example in rows for text in example.texts)
        elif source.hub:
            yield from map(read, selected(source, hub_rows(source)))
        done = 0
        for path in self.bucket.files:
            try:
                file = File(path)
            except OSError as error:
                self.problems.append(f"{path}: cannot be opened ({error.strerror or error})")
                continue
            with file:
                for number, row in enumerate(selected(source, file.rows(format_of(source, path), self.problems))):
                    if number % 256 == 0:
                        self.tell((done + file.position) / 2**20)
                    yield read(row)
            done += file.size

    def texts(self) -> Iterator[tuple[str, str | None]]:
        """(cleaned text, id or None) of every row that holds text."""
        counts, config, mended = self.counts, self.bucket.clean, self.mended
        for raw, identifier in self.raw():
            counts["rows"] += 1
            text = clean(raw, config, mended)
            if text:
                counts["documents"] += 1
                counts["words"] += text.count(" ") + text.count("\n") + 1
                counts["characters"] += len(text)
                yield text, identifier
            else:
                counts["empty"] += 1

    def told(self) -> dict:
        """What was counted."""
        return {**self.counts, "mended": dict(self.mended), "problems": self.problems, "files": len(self.bucket.files)}


class Texts:
    """texts-*.parquet of a text folder: several, because an engine that reads one may take all of it in at once."""

    def __init__(self, folder: Path, named: bool):
        import pyarrow

        text = pyarrow.large_string()
        self.folder, self.file, self.files, self.written, self.inside = folder, None, 0, 0, 0
        self.schema = pyarrow.schema([("row", pyarrow.int64()), ("text", text)] + [("id", text)] * named)

    def __enter__(self) -> Texts:
        return self

    def __exit__(self, *_) -> None:
        if self.file:
            self.file.close()

    def write(self, texts: tuple[str, ...] = (), identifiers: tuple[str, ...] = ()) -> None:
        """Append texts, and their names where the file has them."""
        import pyarrow
        import pyarrow.parquet

        if self.inside > PART or not self.file:
            if self.file:
                self.file.close()
            self.file = pyarrow.parquet.ParquetWriter(
                self.folder / f"texts-{self.files:04}.parquet", self.schema, compression="zstd", compression_level=7,
                use_dictionary=False, data_page_size=2**23)
            self.files, self.inside = self.files + 1, 0
        rows = numbers(np.arange(self.written, self.written + len(texts)))
        columns = [rows, strings(texts), strings(identifiers) if "id" in self.schema.names else None]
        self.file.write_table(pyarrow.Table.from_arrays(columns[:len(self.schema)], schema=self.schema))
        self.written += len(texts)
        self.inside += sum(map(len, texts))


def extract(bucket: Bucket, shown: bool = True) -> Path:
    """The folder with a bucket's cleaned texts. Raises DataError for a column that is not there.

    shown: whether a person is told how far it is.
    """
    def make(folder: Path) -> dict:
        title, megabytes = f"read {name(bucket.source)}", bucket.size // 2**20 + 1
        with Progress(title, megabytes, 0, shown, "MiB") as progress, Texts(folder, bool(bucket.source.id)) as file:
            reading = Reading(bucket, lambda done: progress.update(int(done), f"{progress.rate(done):.1f} MiB/s"))
            for _ in ahead(lambda group: file.write(*zip(*group)), grouped(reading.texts(), lambda row: row[0], FLUSH), 1):
                pass
            if not file.written:
                file.write((), ())
        return reading.told()

    plain = re.sub(r"\W+", "-", Path(name(bucket.source)).stem or "text").strip("-")[:40] or "text"
    return derive("text", plain, bucket.inputs, make, quiet=True)


def read_texts(folder: Path) -> Iterator[list[str]]:
    """The texts of a text folder, some at a time."""
    import pyarrow.parquet
    for path in text_files(folder):
        with pyarrow.parquet.ParquetFile(path) as file:
            # Group by group: asked for all at once, pyarrow holds on to what it has read.
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["text"]).column("text").to_pylist()


def text_files(folder: Path) -> list[Path]:
    """The files of a text folder, in order."""
    return sorted(folder.glob("texts-*.parquet"))
