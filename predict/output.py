"""The output file: every row with its prediction, in parts that are complete or absent, then joined.

A part is the lines of CSV or JSON, or a Parquet file, of some rows. Joining them writes one file under another name and
renames it, so that a file of this name is always whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.csv_cells import csv_lines, to_json
from engine.errors import DataError, first_line
from engine.files import atomic_path
from predict.config import OutputFormat


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


def replace_surrogates(value: Any) -> Any:
    """Return a value with a question mark for each half of a surrogate pair, which is in no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(each) for key, each in value.items()}
    return [replace_surrogates(each) for each in value] if isinstance(value, (list, tuple)) else value


def write_parquet(path: Path, rows: list[dict], columns: list[str]) -> None:
    """Write rows as Parquet, all with the same columns. Raises DataError for a column of different kinds of values."""
    import pyarrow
    import pyarrow.parquet

    arrays = []
    for name in columns:
        try:
            arrays.append(pyarrow.array([replace_surrogates(row.get(name)) for row in rows]))
        except (pyarrow.ArrowException, OverflowError) as error:
            raise DataError(
                f"column {name!r} fits in no Parquet column ({first_line(error)}); set format=jsonl"
            ) from None
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=replace_surrogates(columns)), path)


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
