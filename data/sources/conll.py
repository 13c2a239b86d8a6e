"""Tagged sentences in the format of the CoNLL shared tasks, one token per line."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from engine.errors import DataError

TAG_PATTERN = re.compile(r"O|[BIESLU]-.+")  # of IOB, IOE, BIOES and BILOU
ZERO_WIDTH_CHARACTERS = "\ufeff\u200b"  # a line of nothing else counts as empty


def split_columns(line: str) -> list[str]:
    """Split a line at its tabs, or at its spaces if it has no tab."""
    columns = line.split("\t") if "\t" in line else line.split(" ")
    return [column.strip(" ") for column in columns if "\t" in line or column]


def iter_sentences(
    lines: Iterable[str], path: str, problems: list[str] | None = None, names: list[str] | None = None
) -> Iterator[dict]:
    """Yield rows {"tokens", "tags", "text"}; the first column of a line is the token, the last its tag.

    names: of all columns, each of which becomes a list, instead. An empty or -DOCSTART- line ends a sentence; a line
    that starts with "# " without a tag at its end is a comment.
    Raises DataError for a line with too few columns; with `problems`, the sentence is skipped and counted there.
    """
    count, expected = (len(names), ", ".join(names)) if names else (2, "a word, a tab or spaces, a tag")
    words, complete, skipped = [], True, 0
    for number, line in enumerate(chain(lines, [""]), 1):
        line = line.strip(" \t\r\n")
        columns = split_columns(line)
        if not line.strip().strip(ZERO_WIDTH_CHARACTERS) or columns[0] == "-DOCSTART-":
            if words and complete:
                values = map(list, zip(*words, strict=True))
                row = dict(zip(names or ("tokens", "tags"), values, strict=True))
                yield row if names else {**row, "text": " ".join(row["tokens"])}
            words, complete, skipped = [], True, skipped + (not complete)
        elif line.startswith("# ") and not TAG_PATTERN.fullmatch(columns[-1]):
            continue
        elif len(columns) >= count:
            words.append(tuple(columns[:count]) if names else (columns[0], columns[-1]))
        elif problems is None:
            what = f"{len(columns)} of {count} columns" if names else "no tag"
            raise DataError(f"{path} line {number}: {line!r} has {what}; expected {expected}")
        else:
            complete = False
    if skipped:
        problems.append(f"{path}: {skipped} sentence{'s' * (skipped > 1)} with an untagged line, skipped")
