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

from data.arrays import batch_by_characters, threaded_map, to_int64_array, to_string_array
from data.cache import get_or_build
from data.corpus.clean import clean_text
from data.corpus.config import Clean, CorpusSource
from data.sources.readers import DataFile
from data.sources.source import (
    content_hash,
    display_name,
    filter_rows,
    fingerprint_inputs,
    get_format,
    get_text,
    iter_hub_rows,
    resolve_files,
)
from data.tasks.task import TaskFile
from engine.config.loader import load_config
from engine.runs.progress import Progress

BUCKET_BYTES = 64 * 2**20  # bytes of files read together
ROW_GROUP_CHARS = 4 * 2**20  # characters of a row group: small, because readers hold several of them at once
MAX_FILE_CHARS = 32 * 2**20  # characters of a file


class Bucket(NamedTuple):
    """Files of one source that are read together; none when the source is no file."""

    source: CorpusSource
    clean: Clean
    files: tuple[str, ...]
    fingerprint_inputs: dict
    """What the fingerprint is made of."""

    @property
    def total_bytes(self) -> int:
        """Bytes of its files."""
        return sum(DataFile.file_size(path) for path in self.files)


def corpus_source_name(source: CorpusSource) -> str:
    """What a person calls the source."""
    return source.task or display_name(source)


def split_into_buckets(source: CorpusSource, clean_config: Clean) -> list[Bucket]:
    """The source in parts of about 64 MiB. A file's bucket follows from its path, not from what else there is."""
    told = source.model_dump(mode="json", exclude={"weight", "language", "license", "files"}) | {
        "clean": clean_config.model_dump(),
        "version": 3,
    }
    if source.task:
        rows = load_config(TaskFile, [source.task]).fingerprint_inputs()
        return [Bucket(source, clean_config, (), told | {"rows": rows})]
    if source.hub:
        return [Bucket(source, clean_config, (), told | {"rows": fingerprint_inputs(source)})]
    files = resolve_files(source)
    for path in files:
        get_format(source, path)
    sizes = [DataFile.file_size(path) for path in files]
    wanted = -(-sum(sizes) // BUCKET_BYTES)
    count = 1 << max(0, min(wanted, len(files)) - 1).bit_length()
    parts: dict[int, list[str]] = {}
    for path in files:
        number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % count
        parts.setdefault(number, []).append(path)
    return [
        Bucket(source, clean_config, tuple(paths), told | {"files": [content_hash(path) for path in paths]})
        for _, paths in sorted(parts.items())
    ]


class BucketReader:
    """One reading of a bucket: its cleaned texts, and what is counted on the way."""

    def __init__(self, bucket: Bucket, on_progress: Callable[[float], None] = lambda megabytes: None):
        """tell: is told now and then how many MiB have been read."""
        self.bucket, self.on_progress = bucket, on_progress
        self.counts = Counter(rows=0, empty=0, documents=0, words=0, characters=0)
        self.fixed, self.problems = Counter(), []

    def iter_raw_texts(self) -> Iterator[tuple[str, str | None]]:
        """(text, id or None) of every row; broken files are told in `problems`. Raises DataError for a missing column."""
        source, where = self.bucket.source, corpus_source_name(self.bucket.source)

        def read(row: dict) -> tuple[str, str | None]:
            return get_text(row, source.text, where), get_text(row, source.id, where) if source.id else None

        if source.task:
            rows = load_config(TaskFile, [source.task]).load_splits()["train"]
            yield from ((text, None) for example in rows for text in example.texts)
        elif source.hub:
            yield from map(read, filter_rows(source, iter_hub_rows(source)))
        done = 0
        for path in self.bucket.files:
            try:
                file = DataFile(path)
            except OSError as error:
                self.problems.append(f"{path}: cannot be opened ({error.strerror or error})")
                continue
            with file:
                for number, row in enumerate(
                    filter_rows(source, file.iter_rows(get_format(source, path), self.problems))
                ):
                    if number % 256 == 0:
                        self.on_progress((done + file.position) / 2**20)
                    yield read(row)
            done += file.size

    def iter_texts(self) -> Iterator[tuple[str, str | None]]:
        """(cleaned text, id or None) of every row that holds text."""
        counts, config, mended = self.counts, self.bucket.clean, self.fixed
        for raw, identifier in self.iter_raw_texts():
            counts["rows"] += 1
            text = clean_text(raw, config, mended)
            if text:
                counts["documents"] += 1
                counts["words"] += text.count(" ") + text.count("\n") + 1
                counts["characters"] += len(text)
                yield text, identifier
            else:
                counts["empty"] += 1

    def stats(self) -> dict:
        """What was counted."""
        return {**self.counts, "fixed": dict(self.fixed), "problems": self.problems, "files": len(self.bucket.files)}


class TextWriter:
    """texts-*.parquet of a text folder: several, because an engine that reads one may take all of it in at once."""

    def __init__(self, folder: Path, has_ids: bool):
        import pyarrow

        text = pyarrow.large_string()
        self.folder, self.parquet_writer, self.num_files, self.num_rows, self.file_chars = folder, None, 0, 0, 0
        self.schema = pyarrow.schema([("row", pyarrow.int64()), ("text", text)] + [("id", text)] * has_ids)

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(self, *_) -> None:
        if self.parquet_writer:
            self.parquet_writer.close()

    def write(self, texts: tuple[str, ...] = (), ids: tuple[str, ...] = ()) -> None:
        """Append texts, and their names where the file has them."""
        import pyarrow
        import pyarrow.parquet

        if self.file_chars > MAX_FILE_CHARS or not self.parquet_writer:
            if self.parquet_writer:
                self.parquet_writer.close()
            self.parquet_writer = pyarrow.parquet.ParquetWriter(
                self.folder / f"texts-{self.num_files:04}.parquet",
                self.schema,
                compression="zstd",
                compression_level=7,
                use_dictionary=False,
                data_page_size=2**23,
            )
            self.num_files, self.file_chars = self.num_files + 1, 0
        rows = to_int64_array(np.arange(self.num_rows, self.num_rows + len(texts)))
        columns = [rows, to_string_array(texts), to_string_array(ids) if "id" in self.schema.names else None]
        self.parquet_writer.write_table(pyarrow.Table.from_arrays(columns[: len(self.schema)], schema=self.schema))
        self.num_rows += len(texts)
        self.file_chars += sum(map(len, texts))


def extract(bucket: Bucket, show_progress: bool = True) -> Path:
    """The folder with a bucket's cleaned texts. Raises DataError for a column that is not there.

    show_progress: whether a person is told how far it is.
    """

    def make(folder: Path) -> dict:
        title, megabytes = f"read {corpus_source_name(bucket.source)}", bucket.total_bytes // 2**20 + 1
        with (
            Progress(title, megabytes, 0, show_progress, "MiB") as progress,
            TextWriter(folder, bool(bucket.source.id)) as file,
        ):
            reading = BucketReader(bucket, lambda done: progress.update(int(done), f"{progress.rate(done):.1f} MiB/s"))
            for _ in threaded_map(
                lambda group: file.write(*zip(*group)),
                batch_by_characters(reading.iter_texts(), lambda row: row[0], ROW_GROUP_CHARS),
                1,
            ):
                pass
            if not file.num_rows:
                file.write((), ())
        return reading.stats()

    plain = re.sub(r"\W+", "-", Path(corpus_source_name(bucket.source)).stem or "text").strip("-")[:40] or "text"
    return get_or_build("text", plain, bucket.fingerprint_inputs, make, quiet=True)


def iter_text_batches(folder: Path) -> Iterator[list[str]]:
    """The texts of a text folder, some at a time."""
    import pyarrow.parquet

    for path in list_text_files(folder):
        with pyarrow.parquet.ParquetFile(path) as file:
            # Group by group: asked for all at once, pyarrow holds on to what it has read.
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["text"]).column("text").to_pylist()


def list_text_files(folder: Path) -> list[Path]:
    """The files of a text folder, in order."""
    return sorted(folder.glob("texts-*.parquet"))
