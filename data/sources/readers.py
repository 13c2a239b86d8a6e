"""Readers of tabular, text and markup files as rows, compressed or not, local or at any fsspec address.

    with DataFile("reviews.csv.gz") as file:
        for row in file.iter_rows(FileFormat("csv"), problems): ...

Damaged parts of a file are skipped and noted in `problems`; without such a list the error is raised.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from xml.etree import ElementTree

from data.sources import lines as limits
from data.sources.archives import file_size, name_inside, open_raw
from data.sources.compression import COMPRESSED_EXTENSIONS, open_decompressed
from data.sources.conll import iter_sentences
from data.sources.csv_records import check_header, iter_csv_records
from data.sources.encodings import find_encoding
from data.sources.json_array import iter_json_array
from data.sources.json_tables import get_rows
from data.sources.lines import decode_lines, describe_limit
from data.sources.values import find_class_names, name_classes
from data.sources.warc import iter_pages, iter_records, page_to_text
from data.sources.workbook import iter_sheet
from engine.errors import DataError, OptionError, UserError, first_line

EXTENSION_TO_FORMAT = {
    **dict.fromkeys([".csv", ".tsv", ".tab"], "csv"),
    **dict.fromkeys([".json", ".jsonl", ".ndjson"], "json"),
    **dict.fromkeys([".txt", ".md"], "text"),
    **dict.fromkeys([".warc", ".wet"], "warc"),
    **dict.fromkeys([".html", ".htm"], "html"),
    **dict.fromkeys([".conll", ".bio", ".iob2"], "conll"),
    **{f".{name}": name for name in ("parquet", "arrow", "xml", "xlsx")},
}


DELIMITERS = ";\t|"  # other than a comma
MAX_BATCH_BYTES = 2**26  # of the rows of a Parquet file that are read together
MAX_BYTES_IN_MEMORY = 2**29  # of a compressed Parquet or Arrow file


def file_extension(path: str) -> str:
    """Return the extension without that of the compression: .csv of reviews.csv.gz, and of an address's path."""
    path = name_inside(path)
    name = (path.partition("?")[0] if "://" in path else path).lower().rsplit("/", 1)[-1]
    for compressed in COMPRESSED_EXTENSIONS:
        name = name.removesuffix(compressed)
    return f".{name.rsplit('.', 1)[1]}" if "." in name else ""


def default_delimiter(path: str) -> str:
    """Return the delimiter of a csv by its extension."""
    return "\t" if file_extension(path) in (".tsv", ".tab") else ","


@dataclass
class FileFormat:
    """Format of a file and its options, the keys of `Source`."""

    name: str
    """csv, json, parquet, arrow, text, warc, html, xml, xlsx or conll."""
    encoding: str | None = None
    delimiter: str | None = None
    skip_rows: list[int] | None = None
    unit: str = "paragraph"
    element: str | None = None
    quotes: bool = True
    columns: list[str] | None = None
    sheet: str | None = None
    field: str | None = None


class DataFile:
    """An open file; `position` of its `size` bytes on disk have been read."""

    def __init__(self, path: str):
        self.path, self.size = path, file_size(path)
        self.raw_stream = open_raw(path)
        self.stream = open_decompressed(self.raw_stream, name_inside(path))

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
        """Yield the rows in order. Raises DataError for a damaged file if there are no `problems` to note it in."""
        count = 0
        try:
            if not self.size or not self.stream.peek(1):
                if problems is not None:
                    problems.append(f"{self.path}: an empty file")
                return
            for row in READERS[file_format.name](self, file_format, problems):
                count += 1
                yield row
        except OptionError as error:
            is_located = error.problem.startswith(self.path)
            raise (error if is_located else error.located(f"{self.path} row {count + 1}")) from None
        except UserError:
            raise
        except Exception as error:
            if problems is None:
                raise DataError(f"{self.path} row {count + 1}: cannot be read ({first_line(error)})") from None
            problems.append(f"{self.path}: broken after row {count} ({first_line(error)}); earlier rows are kept")

    def decode_lines(self, encoding: str | None, problems: list[str] | None, is_split: bool = False) -> Iterator[str]:
        """Yield the lines of a text, as in `data.sources.lines`."""
        return decode_lines(self.stream, self.path, problems, encoding, is_split)


def iter_text(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield rows {"text"} of a text file, including the unit that an error cuts off; a huge unit is several rows."""
    unit: list[str] = []
    size = num_split = is_continued = 0
    try:
        for line in file.decode_lines(file_format.encoding, problems, is_split=True):
            size += len(line)
            end = "\n" * line.endswith(("\n", "\r"))  # none if only a part of a long line was read
            line = line.rstrip("\r\n")
            if file_format.unit == "line":
                num_split, is_continued = num_split + is_continued, not end
                yield {"text": line}
            elif file_format.unit == "document" or line.strip():
                unit.append(line + end)
            if unit and (size >= limits.MAX_ROW_BYTES or file_format.unit == "paragraph" and not line.strip()):
                num_split += size >= limits.MAX_ROW_BYTES
                yield {"text": "".join(unit).removesuffix("\n")}
                unit, size = [], 0
    except Exception:
        if unit and problems is not None:
            yield {"text": "".join(unit).removesuffix("\n")}
        raise
    if unit:
        yield {"text": "".join(unit).removesuffix("\n")}
    if num_split and problems is not None:
        places = f"{num_split} place{'s' * (num_split > 1)}"
        problems.append(f"{file.path}: {file_format.unit} {describe_limit()}, split at {places}")


def iter_csv(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of a csv as text, so that a label 01 or a word NA is preserved."""
    csv.field_size_limit(2**31 - 1)
    numbered = enumerate(file.decode_lines(file_format.encoding, problems))
    lines = (line for number, line in numbered if number not in (file_format.skip_rows or ()))
    columns, wrong = file_format.columns or None, 0
    delimiter = file_format.delimiter or default_delimiter(file.path)
    if delimiter == "whitespace":
        lines, delimiter = (f"{' '.join(line.split())}\n" for line in lines), " "
    for values in iter_csv_records(lines, file.path, delimiter, file_format.quotes, problems):
        if not values:
            continue
        if columns is None:
            columns = values
            check_header(columns, file.path, problems)
        elif len(values) > len(columns):
            if problems is None:
                counts = f"{len(values)} values, but {len(columns)} columns are named"
                first = values if file_format.columns else columns
                if mark := find_delimiter(first):
                    raise OptionError(f"{counts}, {first[0]!r}", "delimiter", mark)
                raise ValueError(f"{counts}; quote values that contain a {delimiter!r}, or set delimiter or columns")
            wrong += 1
        else:
            yield dict(zip(columns, values + [""] * (len(columns) - len(values)), strict=True))
    if wrong:
        problems.append(f"{file.path}: {wrong} row{'s' * (wrong > 1)} with more columns than the header, skipped")


def find_delimiter(values: list[str]) -> str | None:
    """Return another delimiter than a comma that the only value of a line contains, or a tab in any of them."""
    found = (mark for mark in DELIMITERS if mark in values[0] and len(values) == 1)
    return "\t" if any("\t" in value for value in values) else next(found, None)


def iter_json(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of JSON lines, a list or an object of objects; unlike `datasets`, dates remain strings."""
    encoding = find_encoding(file.stream, file_format.encoding) or "utf-8-sig"
    if file.stream.peek(512)[:512].decode(encoding, "ignore").lstrip().startswith("["):
        values = iter_json_array(file.decode_lines(file_format.encoding, problems, is_split=True))
        yield from name_columns(values, file_format.columns)
        return
    lines, wrong = file.decode_lines(file_format.encoding, problems), 0
    first = list(islice((line for line in lines if line.strip()), 2))
    if file_format.field or len(first) == 1 or first and is_cut_off(first[0]):
        taken: list[str] = []
        try:
            content = take_object(chain(first, lines), taken)
        except json.JSONDecodeError:
            if problems is None or file_format.field:
                raise
            first = taken  # lines of which the first is damaged
        else:
            yield from get_rows(content, file_format.field) if isinstance(content, dict) else [content]
            return
    for line in chain(first, lines):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            if problems is None:
                raise
            wrong += 1
            continue
        if row is not None:
            yield row
    if wrong:
        problems.append(f"{file.path}: {wrong} line{'s' * (wrong > 1)} not JSON, skipped")


def take_object(lines: Iterable[str], taken: list[str]) -> object:
    """Append lines of at most MAX_ROW_BYTES characters to `taken` and parse them. Raises ValueError for more."""
    size = 0
    for line in lines:
        taken.append(line)
        size += len(line)
        if size > limits.MAX_ROW_BYTES:
            raise ValueError(f"one object {describe_limit()}; write one row per line")
    return json.loads("".join(taken))


def is_cut_off(line: str) -> bool:
    """Return whether a line is the beginning of an object that goes on in the next lines."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.lstrip().startswith("{") and error.pos >= len(line.rstrip())
    except (ValueError, RecursionError):  # such as a number of too many digits
        pass
    return False


def name_columns(rows: Iterable, columns: list[str] | None) -> Iterator:
    """Yield rows that are lists, as `DataFrame.to_json(orient="values")` writes them, with the names of `columns`."""
    for row in rows:
        yield dict(zip(columns, row, strict=True)) if columns and isinstance(row, list) else row


def iter_xml(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield a row per `file_format.element`, with a column for the text of each kind of element inside it."""
    parser, ancestors = ElementTree.XMLPullParser(("start", "end")), []
    depth = size = 0
    while part := file.stream.read(2**14):
        parser.feed(part)
        size += len(part)
        for event, element in parser.read_events():
            is_row = local_name(element) == file_format.element
            if event == "start":
                ancestors.append(element)
                depth += is_row
                continue
            ancestors.pop()
            if is_row:
                yield element_to_row(element)
                element.clear()
                depth -= 1
            if not depth:
                size = 0
                for other in (element, *ancestors[-1:]):  # otherwise the memory fills with finished elements
                    other.clear()
        if size > limits.MAX_ROW_BYTES:
            raise ValueError(f"an element {describe_limit()}")
    parser.close()


def local_name(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rsplit("}", 1)[-1]


def element_to_row(element: ElementTree.Element) -> dict[str, str]:
    """Return the texts of an element and of those inside it, by name."""
    row: dict[str, list[str]] = {}
    for inside in element.iter():
        row.setdefault(local_name(inside), []).append("".join(inside.itertext()).strip())
    return {name: "\n".join(texts) for name, texts in row.items()}


def ensure_seekable(stream: io.IOBase) -> io.IOBase:
    """Return the stream itself if it is seekable, else its content in memory. Raises ValueError for a huge file."""
    if stream.seekable():
        return stream
    content = stream.read(MAX_BYTES_IN_MEMORY + 1)
    if len(content) > MAX_BYTES_IN_MEMORY:
        raise ValueError(f"over {MAX_BYTES_IN_MEMORY // 2**20} MiB when decompressed; decompress it first")
    return io.BytesIO(content)


def iter_parquet(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of a Parquet file, with the names of classes that `datasets` stores in its schema."""
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(ensure_seekable(file.stream))
    groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
    num_rows = MAX_BATCH_BYTES * max(1, parquet.metadata.num_rows) // max(1, sum(g.total_byte_size for g in groups))
    yield from iter_batches(parquet.iter_batches(min(1_000, max(1, num_rows))), parquet.schema_arrow.metadata)


def iter_arrow(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of an Arrow file or stream, as `datasets` writes them."""
    import pyarrow.ipc

    if file.stream.peek(6)[:6] == b"ARROW1":
        reader = pyarrow.ipc.open_file(ensure_seekable(file.stream))
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = reader = pyarrow.ipc.open_stream(file.stream)
    yield from iter_batches(batches, reader.schema.metadata)


def iter_batches(batches: Iterable, metadata: dict[bytes, bytes] | None) -> Iterator[dict]:
    """Yield the rows of Arrow batches. metadata: of their schema, where `datasets` keeps the names of classes."""
    try:
        names = find_class_names(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError, AttributeError):
        names = {}
    for batch in batches:
        yield from name_classes(batch.to_pylist(), names) if names else batch.to_pylist()


def iter_warc(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield rows {"text", "url"} of the pages in a web archive."""
    yield from iter_pages(iter_records(file.stream), file.path, problems)


def iter_html(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield one row {"text"}, the visible text of a saved page."""
    text = page_to_text(file.stream.read(limits.MAX_ROW_BYTES + 1))
    yield from iter_pages(iter([{"text": text}]), file.path, problems)


def iter_conll(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the sentences of a CoNLL file as rows {"tokens", "tags", "text"}, or with the named columns."""
    lines = file.decode_lines(file_format.encoding, problems)
    yield from iter_sentences(lines, file.path, problems, file_format.columns)


def iter_xlsx(file: DataFile, file_format: FileFormat, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows of a sheet of an Excel workbook."""
    stream = ensure_seekable(file.stream)
    yield from iter_sheet(stream, file.path, file_format.sheet, file_format.columns or [], problems)


TABLES = (iter_csv, iter_json, iter_parquet, iter_arrow, iter_xlsx)
READERS = {
    reader.__name__.removeprefix("iter_"): reader
    for reader in (*TABLES, iter_text, iter_warc, iter_html, iter_xml, iter_conll)
}
