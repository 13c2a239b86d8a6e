"""Files of every common format as rows, decompressed on the way, local or at any address fsspec knows.

    with File("reviews.csv.gz") as file:
        for row in file.rows(Format(...), problems): ...

What is broken inside a file is passed over and told in `problems`; where there is no such list it is raised.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from data.sources.compression import COMPRESSED_EXTENSIONS, open_decompressed

EXTENSION_TO_FORMAT = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
    ".warc": "warc",
    ".wet": "warc",
    ".xml": "xml",
    ".conll": "conll",
    ".bio": "conll",
    ".iob2": "conll",
}


def file_extension(path: str) -> str:
    """The ending that tells the format: .csv of reviews.csv.gz."""
    name = path.lower().rsplit("/", 1)[-1]
    for packed in COMPRESSED_EXTENSIONS:
        name = name.removesuffix(packed)
    return f".{name.rsplit('.', 1)[1]}" if "." in name else ""


@dataclass
class FileFormat:
    """How a file is read."""

    name: str
    """csv, json, parquet, arrow, text, warc, xml or conll."""
    delimiter: str | None = None
    skip_rows: list[int] | None = None
    unit: str = "paragraph"
    """What one row of a text file is: line, paragraph or document."""
    element: str | None = None
    """What one row of an XML file is."""
    quotes: bool = True
    """Whether a value of a csv may stand in double quotes."""


class DataFile:
    """One file, open. `position` of `size` bytes have been read, as it lies on disk."""

    def __init__(self, path: str):
        self.path, self.size = path, self.file_size(path)
        if "://" in path:
            import fsspec

            self.raw_stream = fsspec.open(path, "rb").open()
        else:
            self.raw_stream = open(path, "rb")
        self.stream = open_decompressed(self.raw_stream, path)

    @staticmethod
    def file_size(path: str) -> int:
        """Bytes of a file, without opening it."""
        if "://" not in path:
            return os.path.getsize(path)
        import fsspec

        filesystem, inside = fsspec.core.url_to_fs(path)
        return filesystem.size(inside) or 0

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_) -> None:
        for file in (self.stream, self.raw_stream):
            try:
                file.close()
            except (OSError, EOFError):
                pass  # half a compressed file complains again when closed

    @property
    def position(self) -> int:
        """Bytes read so far; all of them once the reader has closed the file."""
        return self.size if self.raw_stream.closed else self.raw_stream.tell()

    def iter_rows(self, file_format: FileFormat, problems: list[str] | None = None) -> Iterator[dict]:
        """The rows, in order. Without `problems`, raises what is wrong with the file."""
        found, reader = (
            0,
            {
                "csv": iter_csv,
                "json": iter_json,
                "parquet": iter_parquet,
                "arrow": iter_arrow,
                "text": iter_text,
                "warc": iter_warc,
                "xml": iter_xml,
                "conll": iter_conll,
            }[file_format.name],
        )
        try:
            if not self.size or not self.stream.peek(1):
                if problems is not None:
                    problems.append(f"{self.path}: an empty file")
                return
            for row in reader(self, file_format, problems):
                found += 1
                yield row
        except Exception as error:
            if problems is None:
                raise
            reason = (str(error) or type(error).__name__).strip().splitlines()[0][:160]
            problems.append(f"{self.path}: broken after row {found} ({reason}); what came before is kept")


def decode_lines(stream: io.BufferedReader, path: str, problems: list[str] | None) -> Iterator[str]:
    """The lines of a text, with their ends. Bytes that are not UTF-8 are read as Windows-1252, line by line."""
    if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield from io.TextIOWrapper(stream, "utf-16", newline="")
        return
    wrong = 0
    for number, line in enumerate(stream):
        line = line if number else line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.decode()
        except UnicodeDecodeError:
            if problems is None:
                raise
            wrong += 1
            yield line.decode("cp1252", "replace")
    if wrong:
        problems.append(f"{path}: {wrong} line{'s' * (wrong > 1)} not UTF-8, read as Windows-1252")


def iter_text(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Rows {"text"} of a text file. What stood before a break in the file still counts."""
    together: list[str] = []
    try:
        for line in decode_lines(file.stream, file.path, problems):
            line = line.rstrip("\r\n")
            if file_format.unit == "line":
                yield {"text": line}
            elif file_format.unit == "document" or line.strip():
                together.append(line)
            elif together:
                yield {"text": "\n".join(together)}
                together = []
    except Exception:
        if together and problems is not None:
            yield {"text": "\n".join(together)}
        raise
    if together:
        yield {"text": "\n".join(together)}


def iter_csv(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """The rows of a csv as text, so that a label 01 or a word NA stays what it is."""
    from csv import QUOTE_MINIMAL, QUOTE_NONE, field_size_limit, reader

    field_size_limit(2**31 - 1)
    lines = (
        line
        for number, line in enumerate(decode_lines(file.stream, file.path, problems))
        if number not in (file_format.skip_rows or ())
    )
    columns, wrong = None, 0
    separator = file_format.delimiter or ("\t" if file_extension(file.path) in (".tsv", ".tab") else ",")
    for values in reader(
        lines, delimiter=separator, strict=True, quoting=QUOTE_MINIMAL if file_format.quotes else QUOTE_NONE
    ):
        if not values:
            continue
        if columns is None:
            columns = values
        elif len(values) > len(columns):
            if problems is None:
                raise ValueError("a row has more columns than the header names")
            wrong += 1
        else:
            yield dict(zip(columns, values + [""] * (len(columns) - len(values))))
    if wrong:
        problems.append(f"{file.path}: {wrong} row{'s' * (wrong > 1)} with more columns than the header, passed over")


def iter_json(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """The rows of JSON lines, of one list, or of one object of objects, as they stand.

    (`datasets` would make a date of a word like 2020-01-01.)
    """
    lines, wrong = decode_lines(file.stream, file.path, problems), 0
    for number, line in enumerate(lines):
        if number == 0 and line.strip() in ("[", "{") or line.lstrip().startswith("["):
            every = json.loads("".join([line, *lines]))
            yield from (
                every.values()
                if isinstance(every, dict) and is_table_of_rows(every)
                else [every]
                if isinstance(every, dict)
                else every
            )
            return
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            if problems is None:
                raise
            wrong += 1
            continue
        if isinstance(row, dict) and is_table_of_rows(row):
            yield from row.values()
        elif row is not None:
            yield row
    if wrong:
        problems.append(f"{file.path}: {wrong} line{'s' * (wrong > 1)} not JSON, passed over")


def is_table_of_rows(row: dict) -> bool:
    """Whether an object is a table of rows, each under its key."""
    return len(row) > 1 and all(isinstance(value, dict) for value in row.values())


def iter_xml(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """A row for each of the elements `how.element`: a column for each kind of element inside it, with all its text."""
    from xml.etree import ElementTree

    for event, element in ElementTree.iterparse(file.stream, ("end",)):
        if element.tag.rsplit("}", 1)[-1] == file_format.element:
            row: dict[str, list[str]] = {}
            for inside in element.iter():
                row.setdefault(inside.tag.rsplit("}", 1)[-1], []).append("".join(inside.itertext()).strip())
            yield {name: "\n".join(texts) for name, texts in row.items()}
            element.clear()


def ensure_seekable(stream: io.IOBase) -> io.IOBase:
    """The stream, in memory when one cannot go back in it."""
    return stream if stream.seekable() else io.BytesIO(stream.read())


def iter_parquet(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """The rows of a Parquet file."""
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(ensure_seekable(file.stream)).iter_batches(1_000):
        yield from batch.to_pylist()


def iter_arrow(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """The rows of an Arrow file or stream, as `datasets` writes them."""
    import pyarrow.ipc

    if file.stream.peek(6)[:6] == b"ARROW1":
        reader = pyarrow.ipc.open_file(ensure_seekable(file.stream))
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = pyarrow.ipc.open_stream(file.stream)
    for batch in batches:
        yield from batch.to_pylist()


def iter_warc(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Rows {"text", "url"} of the pages in a web archive."""
    from data.sources.warc import iter_pages

    yield from iter_pages(file.stream)


def iter_conll(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """The sentences of a file with a line for each word: rows {"tokens", "tags", "text"}."""
    from data.sources.conll import iter_sentences

    yield from iter_sentences(decode_lines(file.stream, file.path, problems), file.path, problems)
