"""Raw rows become cleaned texts on disk: `out/text/SOURCE-FINGERPRINT/texts.parquet`, columns row, text (and id).

A source of many files is read in buckets of them, each a folder of its own: a killed run goes on with the next bucket,
and a file that is added redoes its own bucket only.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data import labelled
from data.clean import clean
from data.config import Clean, CorpusSource, TaskFile
from data.derived import derive
from data.readers import File
from data.sources import content_of, format_of, hub_rows, identity, local_files, name_of, selected, text_of
from engine.config import load
from engine.errors import DataError
from engine.record import Progress

BUCKET = 64 * 2**20  # bytes of files read together
FLUSH = 4 * 2**20  # characters of a row group: small, because readers hold several of them at once


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
    told = source.model_dump(mode="json", exclude={"weight", "language", "files"}) | {
        "clean": config.model_dump(), "version": 1}
    if source.task:
        rows = labelled.identity(load(TaskFile, [source.task]).task)
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


def raw_texts(bucket: Bucket, problems: list[str], progress: Progress) -> Iterator[tuple[str, str | None]]:
    """(text, id or None) of every row of a bucket; broken files are told in `problems`."""
    source, where = bucket.source, name(bucket.source)

    def read(row: dict) -> tuple[str, str | None]:
        return text_of(row, source.text, where), text_of(row, source.id, where) if source.id else None

    if source.task:
        task = load(TaskFile, [source.task]).task
        yield from ((text, None) for example in labelled.read(task)["train"] for text in example.texts)
    elif source.hub:
        yield from map(read, selected(source, hub_rows(source)))
    done = 0
    for path in bucket.files:
        try:
            file = File(path)
        except OSError as error:
            problems.append(f"{path}: cannot be opened ({error.strerror or error})")
            continue
        with file:
            rows = selected(source, file.rows(format_of(source, path), problems))
            for number, row in enumerate(rows):
                if number % 256 == 0:
                    megabytes = (done + file.position) / 2**20
                    progress.update(int(megabytes), f"{progress.rate(megabytes):.1f} MiB/s")
                yield read(row)
        done += file.size


def extract(bucket: Bucket) -> Path:
    """The folder with a bucket's cleaned texts. Raises DataError for a column that is not there."""
    def make(folder: Path) -> dict:
        import pyarrow
        import pyarrow.parquet

        counts, mended, problems = Counter(rows=0, empty=0, documents=0, characters=0), Counter(), []
        schema = pyarrow.schema([("row", pyarrow.int64()), ("text", pyarrow.large_string())]
                                + [("id", pyarrow.large_string())] * bool(bucket.source.id))
        megabytes = bucket.size // 2**20 + 1
        title = f"read {name(bucket.source)}"
        with (pyarrow.parquet.ParquetWriter(folder / "texts.parquet", schema, compression="zstd",
                                            use_dictionary=False) as file, Progress(title, megabytes, 0, True, "MiB") as progress):
            waiting: list[tuple] = []
            characters = 0

            def flush() -> None:
                columns = list(zip(*waiting)) or [[]] * len(schema)
                file.write_table(pyarrow.table([list(column) for column in columns], schema=schema))
                waiting.clear()

            for raw, identifier in raw_texts(bucket, problems, progress):
                counts["rows"] += 1
                text = clean(raw, bucket.clean, mended)
                if not text:
                    counts["empty"] += 1
                    continue
                waiting.append((counts["documents"], text, identifier)[:len(schema)])
                counts["documents"] += 1
                counts["characters"] += len(text)
                characters += len(text)
                if characters > FLUSH:
                    flush()
                    characters = 0
            flush()
        return {**counts, "mended": dict(mended), "problems": problems, "files": len(bucket.files)}

    plain = re.sub(r"\W+", "-", Path(name(bucket.source)).stem or "text").strip("-")[:40] or "text"
    return derive("text", plain, bucket.inputs, make, quiet=True)
