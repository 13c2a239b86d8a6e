"""The output file: every row with its prediction, in parts that are complete or absent, then joined.

A part is the lines of CSV or JSON, or a Parquet file, of some rows. Joining them writes one file under another name and
renames it, so that a file of this name is always whole.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import DataError, first_line
from engine.files import fsync, temporary_path
from predict.config import OutputFormat

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet may run as a formula."""


def make_harmless(cell: str) -> str:
    """Return a cell that no spreadsheet runs: an apostrophe comes before what starts a formula, but not a number."""
    if not cell.startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
        return cell
    except ValueError:
        return f"'{cell}"


def to_json(value: Any) -> str:
    """Return a value as JSON; dates and the like as text, half of a surrogate pair as a question mark."""

    def other_to_text(value: object) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    text = json.dumps(value, ensure_ascii=False, default=other_to_text)
    return text.encode("utf-8", "replace").decode()


def to_cell(value: Any, raw: bool) -> str:
    """Return a value as a cell of a CSV: lists and objects as JSON, nothing as an empty cell."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = to_json(value) if isinstance(value, (list, dict)) else str(value)
    text = text.encode("utf-8", "replace").decode()
    return text if raw or not isinstance(value, str) else make_harmless(text)


def csv_lines(rows: Iterable[list], raw: bool) -> str:
    """Return rows as lines of a CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([to_cell(value, raw) for value in row] for row in rows)
    return buffer.getvalue()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file that then replaces `path`; nothing is left of it after an error."""
    temp = temporary_path(path)
    try:
        yield temp
        fsync(temp)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    fsync(path.parent)


class Writer:
    """Writes rows of these columns in a format. raw: whether cells of a CSV stay unchanged."""

    def __init__(self, output_format: OutputFormat, columns: list[str], raw: bool):
        self.format, self.columns, self.raw = output_format, columns, raw

    def write_part(self, path: Path, rows: list[dict]) -> None:
        """Write a part. Raises DataError for values that Parquet cannot hold."""
        with atomic_path(path) as temp:
            if self.format == "parquet":
                write_parquet(temp, rows, self.columns)
            else:
                lines = (
                    csv_lines([[row.get(name) for name in self.columns] for row in rows], self.raw)
                    if self.format == "csv"
                    else "".join(f"{to_json(row)}\n" for row in rows)
                )
                temp.write_bytes(lines.encode())

    def join(self, parts: list[Path], path: Path) -> None:
        """Write the file from its parts."""
        with atomic_path(path) as temp:
            if self.format == "parquet":
                join_parquet(parts, temp)
                return
            with open(temp, "wb") as file:
                if self.format == "csv":
                    file.write(csv_lines([self.columns], self.raw).encode())
                for part in parts:
                    file.write(part.read_bytes())


def write_parquet(path: Path, rows: list[dict], columns: list[str]) -> None:
    """Write rows as Parquet, all with the same columns. Raises DataError for a column of different kinds of values."""
    import pyarrow
    import pyarrow.parquet

    arrays = []
    for name in columns:
        try:
            arrays.append(pyarrow.array([row.get(name) for row in rows]))
        except (pyarrow.ArrowException, OverflowError) as error:
            raise DataError(
                f"column {name!r} fits in no Parquet column ({first_line(error)}); set format=jsonl"
            ) from None
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=columns), path)


def join_parquet(parts: list[Path], path: Path) -> None:
    """Join Parquet files; a column that is empty in one of them gets the type that it has in others."""
    import pyarrow
    import pyarrow.parquet

    schemas = [pyarrow.parquet.read_schema(part) for part in parts]
    try:
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part).cast(schema))
    except pyarrow.ArrowException as error:
        raise DataError(f"the rows fit in no Parquet file ({first_line(error)}); set format=jsonl") from None
