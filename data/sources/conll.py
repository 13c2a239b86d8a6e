"""Sentences of words with a tag each, as files of the CoNLL shared tasks hold them: a line for each word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from engine.errors import DataError

TAG_PATTERN = re.compile(r"O|[BIESLU]-.+")  # of IOB, IOE, BIOES and BILOU
ZERO_WIDTH_CHARACTERS = "\ufeff\u200b"  # marks that print nothing: a line of them is an empty one


def split_columns(line: str) -> list[str]:
    """The columns of a line: they stand apart by tabs, in a line without one by spaces."""
    columns = line.split("\t") if "\t" in line else line.split(" ")
    return [column.strip(" ") for column in columns if "\t" in line or column]


def iter_sentences(lines: Iterable[str], path: str, problems: list[str] | None = None) -> Iterator[dict]:
    """Rows {"tokens", "tags", "text"} of lines in which the first column is the word and the last its tag.

    An empty line or one of -DOCSTART- ends a sentence; one that begins with "# " and does not end with a tag is a
    comment. Raises DataError for a line without a tag; with `problems`, its sentence is passed over and counted.
    """
    words, whole, wrong = [], True, 0
    for number, line in enumerate(chain(lines, [""]), 1):
        line = line.strip(" \t\r\n")
        columns = split_columns(line)
        if not line.strip().strip(ZERO_WIDTH_CHARACTERS) or columns[0] == "-DOCSTART-":
            if words and whole:
                tokens, tags = map(list, zip(*words))
                yield {"tokens": tokens, "tags": tags, "text": " ".join(tokens)}
            words, whole, wrong = [], True, wrong + (not whole)
        elif line.startswith("# ") and not TAG_PATTERN.fullmatch(columns[-1]):
            continue
        elif len(columns) > 1:
            words.append((columns[0], columns[-1]))
        elif problems is None:
            raise DataError(f"{path} line {number}: {line!r} has no tag; a line is a word, a tab or spaces, a tag")
        else:
            whole = False
    if wrong:
        problems.append(f"{path}: {wrong} sentence{'s' * (wrong > 1)} with a line without a tag, passed over")
