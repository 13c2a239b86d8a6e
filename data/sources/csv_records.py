"""Records of csv files; a quote that does not match costs no other record."""

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator

from data.sources import lines as limits
from engine.errors import DataError, OptionError

LINE_BYTES = 100  # that a short line takes in memory in addition to its characters
MAX_REREAD = 4  # times MAX_ROW_BYTES of lines read again, after which quotes are ordinary characters


class RecordLines:
    """The lines of a csv record by record; those that a record took by mistake are returned again."""

    def __init__(self, lines: Iterable[str]):
        self.lines, self.record, self.size, self.returned = iter(lines), [], 0, deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > limits.MAX_ROW_BYTES:
            raise StopIteration  # for the record, not for the file
        line = self.returned.popleft() if self.returned else next(self.lines)
        self.record.append(line)
        self.size += len(line) + LINE_BYTES
        return line

    def start_record(self) -> None:
        """Forget the lines of the last record."""
        self.record, self.size = [], 0

    def keep_first_line(self) -> str:
        """Return the first line of the record; its others belong to the next records."""
        self.returned.extendleft(reversed(self.record[1:]))
        return self.record[0]


def check_header(columns: list[str], path: str, problems: list[str] | None) -> None:
    """Raise DataError for two columns of one name, of which a row would have the last; name them in `problems`.

    Columns without a name, as programs write them around a table, are not read.
    """
    counts = Counter(name for name in columns if name.strip())
    if repeated := [name for name, count in counts.items() if count > 1]:
        if problems is None:
            raise DataError(f"{path}: {counts[repeated[0]]} columns are named {repeated[0]!r}; rename all but one")
        problems.append(f"{path}: several columns are named {', '.join(map(repr, repeated))}, the last of each is read")


def iter_csv_records(
    lines: Iterable[str], path: str, delimiter: str, quotes: bool, problems: list[str] | None
) -> Iterator[list[str]]:
    """Yield the values of each record.

    `"Good" film` is read as other programs read it: Good film. A quote without its end, which would take the following
    lines into one value, is an ordinary character and is counted; without `problems`, it raises OptionError.
    """
    taken, num_wrong, num_reread, options = RecordLines(lines), 0, 0, {"delimiter": delimiter}
    reader = csv.reader(taken, strict=quotes, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, **options)
    while True:
        taken.start_record()
        try:
            yield next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            is_closed = len(taken.record) == 1 and "end of data" not in str(error)
            if not is_closed and problems is None:
                way_out = "double the quotes inside a value, or set {}"
                raise OptionError("a quote without its end", "quotes", "false", way_out) from None
            num_reread += taken.size
            first = taken.keep_first_line().rstrip("\r\n").replace("\r", " ")
            num_wrong += not is_closed
            yield next(csv.reader([first], quoting=csv.QUOTE_MINIMAL if is_closed else csv.QUOTE_NONE, **options), [])
            if num_reread > MAX_REREAD * limits.MAX_ROW_BYTES:
                reader = csv.reader(taken, quoting=csv.QUOTE_NONE, **options)
    if num_wrong:
        problems.append(f"{path}: {num_wrong} row{'s' * (num_wrong > 1)} with a quote without its end, read as it is")
