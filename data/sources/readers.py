"""Readers of tabular, text and markup files as rows, compressed or not, local or at any fsspec address.

    with DataFile("reviews.csv.gz") as file:
        for row in file.iter_rows(FileFormat("csv"), problems): ...

Damaged parts of a file are skipped and noted in `problems`; without such a list the error is raised.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from xml.etree import ElementTree

from data.sources.compression import COMPRESSED_EXTENSIONS, open_decompressed
from data.sources.conll import iter_sentences
from data.sources.warc import decode_page, html_to_text, iter_pages, iter_records

EXTENSION_TO_FORMAT = {
    **dict.fromkeys([".csv", ".tsv", ".tab"], "csv"),
    **dict.fromkeys([".json", ".jsonl", ".ndjson"], "json"),
    **dict.fromkeys([".txt", ".md"], "text"),
    **dict.fromkeys([".warc", ".wet"], "warc"),
    **dict.fromkeys([".html", ".htm"], "html"),
    **dict.fromkeys([".conll", ".bio", ".iob2"], "conll"),
    **{f".{name}": name for name in ("parquet", "arrow", "xml")},
}


def file_extension(path: str) -> str:
    """Return the extension without that of the compression: .csv of reviews.csv.gz."""
    name = path.lower().rsplit("/", 1)[-1]
    for compressed in COMPRESSED_EXTENSIONS:
        name = name.removesuffix(compressed)
    return f".{name.rsplit('.', 1)[1]}" if "." in name else ""


@dataclass
class FileFormat:
    """Format of a file and its options, the keys of `Source`."""

    name: str
    """csv, json, parquet, arrow, text, warc, html, xml or conll."""
    delimiter: str | None = None
    skip_rows: list[int] | None = None
    unit: str = "paragraph"
    element: str | None = None
    quotes: bool = True


class DataFile:
    """An open file; `position` of its `size` bytes on disk have been read."""

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
        """Return the size of a file in bytes, without opening it."""
        if "://" not in path:
            return os.path.getsize(path)
        import fsspec

        filesystem, inside = fsspec.core.url_to_fs(path)
        return filesystem.size(inside) or 0

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_) -> None:
        for file in (self.stream, self.raw_stream):
            with suppress(OSError, EOFError):  # closing a truncated compressed file raises again
                file.close()

    @property
    def position(self) -> int:
        """Bytes read so far; all of them once a reader has closed the file."""
        return self.size if self.raw_stream.closed else self.raw_stream.tell()

    def iter_rows(self, file_format: FileFormat, problems: list[str] | None = None) -> Iterator[dict]:
        """Yield the rows in order. Without `problems`, raises the error of a damaged file."""
        count = 0
        try:
            if not self.size or not self.stream.peek(1):
                if problems is not None:
                    problems.append(f"{self.path}: an empty file")
                return
            for row in READERS[file_format.name](self, file_format, problems):
                count += 1
                yield row
        except Exception as error:
            if problems is None:
                raise
            reason = (str(error) or type(error).__name__).strip().splitlines()[0][:160]
            problems.append(f"{self.path}: broken after row {count} ({reason}); earlier rows are kept")


def decode_lines(stream: io.BufferedReader, path: str, problems: list[str] | None) -> Iterator[str]:
    """Yield the lines of a text with their ends; a line that is not UTF-8 is decoded as Windows-1252."""
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
    """Yield rows {"text"} of a text file, including the unit that an error cuts off."""
    unit: list[str] = []
    try:
        for line in decode_lines(file.stream, file.path, problems):
            line = line.rstrip("\r\n")
            if file_format.unit == "line":
                yield {"text": line}
            elif file_format.unit == "document" or line.strip():
                unit.append(line)
            elif unit:
                yield {"text": "\n".join(unit)}
                unit = []
    except Exception:
        if unit and problems is not None:
            yield {"text": "\n".join(unit)}
        raise
    if unit:
        yield {"text": "\n".join(unit)}


def iter_csv(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of a csv as text, so that a label 01 or a word NA is preserved."""
    csv.field_size_limit(2**31 - 1)
    numbered = enumerate(decode_lines(file.stream, file.path, problems))
    lines = (line for number, line in numbered if number not in (file_format.skip_rows or ()))
    columns, wrong = None, 0
    delimiter = file_format.delimiter or ("\t" if file_extension(file.path) in (".tsv", ".tab") else ",")
    quoting = csv.QUOTE_MINIMAL if file_format.quotes else csv.QUOTE_NONE
    for values in csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting):
        if not values:
            continue
        if columns is None:
            columns = values
        elif len(values) > len(columns):
            if problems is None:
                raise ValueError("a row has more columns than the header")
            wrong += 1
        else:
            yield dict(zip(columns, values + [""] * (len(columns) - len(values)), strict=True))
    if wrong:
        problems.append(f"{file.path}: {wrong} row{'s' * (wrong > 1)} with more columns than the header, skipped")


def iter_json(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of JSON lines, a list or an object of objects; unlike `datasets`, dates remain strings."""
    lines, wrong = decode_lines(file.stream, file.path, problems), 0
    for number, line in enumerate(lines):
        if number == 0 and line.strip() in ("[", "{") or line.lstrip().startswith("["):
            content = json.loads("".join([line, *lines]))
            if isinstance(content, dict):
                content = content.values() if is_table_of_rows(content) else [content]
            yield from content
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
        problems.append(f"{file.path}: {wrong} line{'s' * (wrong > 1)} not JSON, skipped")


def is_table_of_rows(row: dict) -> bool:
    """Return whether an object is a table of rows, each under a key."""
    return len(row) > 1 and all(isinstance(value, dict) for value in row.values())


def iter_xml(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield a row per `file_format.element`, with a column for the text of each kind of element inside it."""
    for _, element in ElementTree.iterparse(file.stream, ("end",)):
        if element.tag.rsplit("}", 1)[-1] == file_format.element:
            row: dict[str, list[str]] = {}
            for inside in element.iter():
                row.setdefault(inside.tag.rsplit("}", 1)[-1], []).append("".join(inside.itertext()).strip())
            yield {name: "\n".join(texts) for name, texts in row.items()}
            element.clear()


def ensure_seekable(stream: io.IOBase) -> io.IOBase:
    """Return the stream itself if it is seekable, else its content in memory."""
    return stream if stream.seekable() else io.BytesIO(stream.read())


def iter_parquet(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(ensure_seekable(file.stream)).iter_batches(1_000):
        yield from batch.to_pylist()


def iter_arrow(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of an Arrow file or stream, as `datasets` writes them."""
    import pyarrow.ipc

    if file.stream.peek(6)[:6] == b"ARROW1":
        reader = pyarrow.ipc.open_file(ensure_seekable(file.stream))
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = pyarrow.ipc.open_stream(file.stream)
    for batch in batches:
        yield from batch.to_pylist()


def iter_warc(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield rows {"text", "url"} of the pages in a web archive."""
    yield from iter_pages(iter_records(file.stream), file.path, problems)


def iter_html(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield one row {"text"}, the visible text of a saved page."""
    yield from iter_pages(iter([{"text": html_to_text(decode_page(file.stream.read()))}]), file.path, problems)


def iter_conll(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the sentences of a CoNLL file as rows {"tokens", "tags", "text"}."""
    yield from iter_sentences(decode_lines(file.stream, file.path, problems), file.path, problems)


READERS = {
    reader.__name__.removeprefix("iter_"): reader
    for reader in (iter_csv, iter_json, iter_parquet, iter_arrow, iter_text, iter_warc, iter_html, iter_xml, iter_conll)
}
