"""Sheets of Excel workbooks."""

import io
import zipfile
from collections.abc import Iterator

from data.sources import lines as limits
from data.sources.csv_records import check_header
from engine.errors import DataError, suggest
from engine.log import warn_once

MAX_SHARED_BYTES = 2**29  # of the texts of a workbook, which are in memory together


def iter_sheet(
    stream: io.IOBase, path: str, sheet: str | None, columns: list[str], problems: list[str] | None = None
) -> Iterator[dict]:
    """Yield the rows of a sheet; the first row has the names of the columns, unless `columns` does.

    sheet: its name; none: the first, and the others are named in a note. Raises DataError without openpyxl.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise DataError(f"{path}: needs openpyxl; pip install openpyxl, or save the sheet as CSV") from None
    with zipfile.ZipFile(stream) as archive:
        if any(info.file_size > MAX_SHARED_BYTES for info in archive.infolist()):
            raise ValueError(f"a part over {MAX_SHARED_BYTES // 2**20} MiB when decompressed; save it as CSV")
    workbook = load_workbook(stream, read_only=True, data_only=True)
    names = workbook.sheetnames
    if sheet and sheet not in names:
        raise DataError(f"{path}: no sheet {sheet!r}{suggest(sheet, names)}")
    if not sheet and len(names) > 1:
        warn_once(f"{path}: sheet {names[0]!r} of {len(names)} is read; sheet: NAME reads another")
    header = columns
    for values in workbook[sheet or names[0]].iter_rows(values_only=True):
        if all(value is None for value in values):
            continue
        if not header:
            header = [to_name(value) for value in values]
            check_header(header, path, problems)
            continue
        if sum(len(value) for value in values if isinstance(value, str)) > limits.MAX_ROW_BYTES:
            raise ValueError(f"a row {limits.describe_limit()}")
        filled = len(values) - next(index for index, value in enumerate(reversed(values)) if value is not None)
        if filled > len(header):
            raise ValueError(f"{filled} values, but {len(header)} columns")
        padded = [*map(to_plain, values), *[None] * (len(header) - len(values))]
        yield dict(zip(header, padded, strict=False))


def to_name(value: object) -> str:
    """Return the name of a column."""
    return "" if value is None else str(value).strip()


def to_plain(value: object) -> object:
    """Return the value of a cell, a date as text; 1.0 as 1, because a sheet has no whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
