"""Cleaned texts of raw rows: `out/text/SOURCE-FINGERPRINT/texts-*.parquet`, columns row, text (and id).

The files of a source are read in buckets, each with its own folder: an interrupted run resumes with the next bucket,
and a new file reprocesses only its own bucket.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.arrays import batch_by_characters, threaded_map, to_int64_array, to_string_array
from data.cache import get_or_build
from data.corpus.clean import clean_text
from data.corpus.config import Clean, Corpus, CorpusSource
from data.sources import source as sources
from data.sources.archives import archive_of, file_size, name_inside
from data.sources.readers import DataFile, default_delimiter
from data.sources.values import get_scalar, get_text
from data.tasks.task import TaskFile
from engine.config.loader import load_config
from engine.runs.progress import Progress

BUCKET_BYTES = 64 * 2**20  # bytes of the files in a bucket
ROW_GROUP_CHARS = 4 * 2**20  # characters of a row group: small, since readers hold several in memory
MAX_FILE_CHARS = 32 * 2**20  # characters of a Parquet file


class Bucket(NamedTuple):
    """Files of a source that are read together; no files for a hub dataset or a task."""

    source: CorpusSource
    clean: Clean
    files: tuple[str, ...]
    fingerprint_inputs: dict

    @property
    def total_bytes(self) -> int:
        """Size of the files in bytes."""
        return sum(map(file_size, self.files))


def corpus_source_name(source: CorpusSource) -> str:
    """Return the name of a source for messages."""
    return source.task or sources.display_name(source)


def fingerprint_files(source: CorpusSource, paths: list[str]) -> dict:
    """Return what determines the texts of files: their content, their names in an archive, and how they are read."""
    inputs: dict = {"files": [sources.content_hash(source, path) for path in paths]}
    if any(archive_of(path) != path for path in paths):
        inputs["members"] = [name_inside(path) for path in paths]
    if sources.FOLDER_COLUMN in (*source.where, *source.rename, *source.non_empty, source.id, source.text):
        inputs["folders"] = [sources.name_folder(path) for path in paths]
    # Any file can be read as plain text, and a csv with another delimiter; other formats do not read each other.
    formats = [(sources.get_format(source, path).name, default_delimiter(path)) for path in paths]
    if any(name == "text" or name == "csv" and delimiter != "," for name, delimiter in formats):
        inputs["formats"] = [f"csv {delimiter}" if name == "csv" else name for name, delimiter in formats]
    return inputs


def split_into_buckets(source: CorpusSource, clean_config: Clean) -> list[Bucket]:
    """Split a source into buckets of about 64 MiB; a file's bucket depends on its path and the number of buckets."""
    inputs = source.model_dump(mode="json", exclude={"weight", "language", "license", "files"})
    inputs |= {"clean": clean_config.model_dump(), "version": 3}
    if source.task:
        rows = load_config(TaskFile, [source.task]).fingerprint_inputs()
        return [Bucket(source, clean_config, (), inputs | {"rows": rows})]
    if source.hub:
        return [Bucket(source, clean_config, (), inputs | {"rows": sources.fingerprint_inputs(source)})]
    files = sources.resolve_files(source)
    for path in files:
        sources.get_format(source, path)
    wanted = -(-sum(map(file_size, files)) // BUCKET_BYTES)
    count = 1 << max(0, min(wanted, len(files)) - 1).bit_length()
    buckets: dict[int, list[str]] = {}
    for path in files:
        number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % count
        buckets.setdefault(number, []).append(path)
    return [
        Bucket(source, clean_config, tuple(paths), inputs | fingerprint_files(source, paths))
        for _, paths in sorted(buckets.items())
    ]


def split_corpus(corpus: Corpus) -> list[Bucket]:
    """Return the buckets of all sources of a corpus, in order."""
    return [bucket for source in corpus.sources for bucket in split_into_buckets(source, corpus.clean)]


class BucketReader:
    """One pass over the cleaned texts of a bucket, with counts; `on_progress` is called with the MiB read so far."""

    def __init__(self, bucket: Bucket, on_progress: Callable[[float], None] = lambda megabytes: None):
        self.bucket, self.on_progress = bucket, on_progress
        self.counts = Counter(rows=0, empty_rows=0, documents=0, words=0, characters=0)
        self.fixed, self.problems = Counter(), []

    def iter_raw_texts(self) -> Iterator[tuple[str, str | None]]:
        """Yield (text, id or None) per row; damaged files go to `problems`. Raises DataError for a missing column."""
        source = self.bucket.source

        def read(located: tuple[str, dict]) -> tuple[str, str | None]:
            location, row = located
            return get_text(row, source.text, location), get_scalar(row, source.id, location) if source.id else None

        if source.task:
            rows = load_config(TaskFile, [source.task]).load_training_texts()
            yield from ((text, None) for example in rows for text in example.texts)
        elif source.hub:
            yield from map(read, sources.iter_located_rows(source))
        done = 0
        for path in self.bucket.files:
            try:
                file = DataFile(path)
            except OSError as error:
                self.problems.append(f"{path}: cannot be opened ({error.strerror or error})")
                continue
            with file:
                rows = sources.iter_file_rows(source, file, path, self.problems)
                for number, located in enumerate(sources.filter_rows(source, rows, path)):
                    if number % 256 == 0:
                        self.on_progress((done + file.position) / 2**20)
                    yield read(located)
            done += file.size

    def iter_texts(self) -> Iterator[tuple[str, str | None]]:
        """Yield (cleaned text, id or None) of each row with text."""
        counts = self.counts
        for raw, identifier in self.iter_raw_texts():
            counts["rows"] += 1
            text = clean_text(raw, self.bucket.clean, self.fixed)
            if text:
                counts["documents"] += 1
                counts["words"] += text.count(" ") + text.count("\n") + 1
                counts["characters"] += len(text)
                yield text, identifier
            else:
                counts["empty_rows"] += 1

    def stats(self) -> dict:
        """Return the counts, for the manifest."""
        return {**self.counts, "fixed": dict(self.fixed), "problems": self.problems, "files": len(self.bucket.files)}


class TextWriter(ExitStack):
    """Writer of texts-*.parquet; several files, since a query engine may read a whole file into memory."""

    def __init__(self, folder: Path, has_ids: bool):
        import pyarrow

        super().__init__()
        text = pyarrow.large_string()
        self.folder, self.parquet_writer, self.num_files, self.num_rows, self.file_chars = folder, None, 0, 0, 0
        self.schema = pyarrow.schema([("row", pyarrow.int64()), ("text", text)] + [("id", text)] * has_ids)

    def write(self, texts: tuple[str, ...] = (), ids: tuple[str, ...] = ()) -> None:
        """Append texts, and their identifiers if the schema has them."""
        from pyarrow import Table, parquet

        if self.file_chars > MAX_FILE_CHARS or not self.parquet_writer:
            self.close()
            path = self.folder / f"texts-{self.num_files:04}.parquet"
            options = {"compression": "zstd", "compression_level": 7, "use_dictionary": False}
            writer = parquet.ParquetWriter(path, self.schema, data_page_size=2**23, **options)
            self.parquet_writer = self.enter_context(writer)
            self.num_files, self.file_chars = self.num_files + 1, 0
        rows = to_int64_array(np.arange(self.num_rows, self.num_rows + len(texts)))
        columns = [rows, to_string_array(texts), *([to_string_array(ids)] if "id" in self.schema.names else [])]
        self.parquet_writer.write_table(Table.from_arrays(columns, schema=self.schema))
        self.num_rows += len(texts)
        self.file_chars += sum(map(len, texts))


def extract(bucket: Bucket, show_progress: bool = True) -> Path:
    """Return the folder of a bucket's cleaned texts. Raises DataError for a missing column."""
    name = corpus_source_name(bucket.source)

    def build(folder: Path) -> dict:
        total, has_ids = bucket.total_bytes // 2**20 + 1, bool(bucket.source.id)
        with Progress(f"read {name}", total, 0, show_progress, "MiB") as bar, TextWriter(folder, has_ids) as writer:
            reader = BucketReader(bucket, lambda done: bar.update(int(done), f"{bar.rate(done):.1f} MiB/s"))
            batches = batch_by_characters(reader.iter_texts(), lambda row: row[0], ROW_GROUP_CHARS)
            for _ in threaded_map(lambda batch: writer.write(*zip(*batch, strict=True)), batches, 1):
                pass
            if not writer.num_rows:
                writer.write()
        return reader.stats()

    stem = re.sub(r"\W+", "-", Path(name).stem or "text").strip("-")[:40] or "text"
    return get_or_build("text", stem, bucket.fingerprint_inputs, build, quiet=True)


def iter_text_batches(folder: Path) -> Iterator[list[str]]:
    """Yield the texts of a text folder in batches."""
    import pyarrow.parquet

    for path in list_text_files(folder):
        with pyarrow.parquet.ParquetFile(path) as file:
            # One row group at a time: pyarrow's own iteration keeps what it has read in memory.
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["text"]).column("text").to_pylist()


def list_text_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a text folder, in order."""
    return sorted(folder.glob("texts-*.parquet"))
