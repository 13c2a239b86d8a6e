"""Rows to predict: where they are, their columns, and the inputs in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from data.modalities import Modality
from data.shortcut import complete_source
from data.sources.source import Source, display_name, fingerprint_inputs, iter_located_rows
from data.sources.values import MISSING, find_value, list_columns
from data.tasks.columns import read_head
from data.tasks.iob import find_words
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from data.tasks.task import to_list
from engine.errors import ConfigError, DataError, OptionError, suggest

FILLER = "."  # the network reads it where a row has no text


@dataclass
class Item:
    """A row and its input."""

    row: dict
    example: Example
    is_empty: bool = False
    """Whether the row has no text, or an image that cannot be read; it is kept, without a label."""
    text: object = None
    """The value of its first column."""
    first_tokens: np.ndarray | None = field(default=None, repr=False)
    """Of each word, if words are labeled, -1 for one without a token."""
    load: Callable | None = field(default=None, repr=False)
    """Decodes the image of the row; raises DataError."""


@dataclass
class Table:
    """The rows of a source, and what a first pass over them found."""

    source: Source
    columns: list[str]
    """Columns of the inputs."""
    modality: Modality
    problem_type: ProblemType
    all_columns: list[str] = field(default_factory=list)
    num_rows: int = 0

    def fingerprint_rows(self) -> dict:
        """Return what determines the rows."""
        return fingerprint_inputs(self.source)

    def iter_items(self) -> Iterator[Item]:
        """Yield the rows in order. Raises DataError naming the row and column that cannot be read."""
        for location, row in iter_located_rows(self.source):
            example = self.modality.read_input(row, self.columns, self.problem_type, location)
            value = find_value(row, self.columns[0])
            if self.problem_type.labels_words:
                value = find_words(row, self.columns[0], location) or value
            if example is None:
                empty = Example((FILLER,) * len(self.columns), ("O",) if self.problem_type.labels_words else "")
                yield Item(row, empty, True, value)
            else:
                yield Item(row, example, False, value)

    def scan(self) -> None:
        """Count the rows and list their columns, so that a mistake in the last row is found before the first result.

        Raises DataError for a row that cannot be read, and for a source without rows.
        """
        columns: dict[str, None] = {}
        try:
            for item in self.iter_items():
                self.num_rows += 1
                if not columns.keys() >= item.row.keys():
                    columns.update(dict.fromkeys(item.row))
        except OptionError as error:
            raise error.at("source") from None
        if not self.num_rows:
            raise DataError(f"{display_name(self.source)}: no rows")
        self.all_columns = list(columns)


def complete_text_source(source: Source) -> Source:
    """Return the source with options that are clear from its first rows; lines of plain text.

    Raises ConfigError for keys of images.
    """
    options = source.model_dump(exclude_unset=True)
    if wrong := sorted(options.keys() - Source.model_fields.keys()):
        raise ConfigError(f"source.{wrong[0]}: is for images, and this model reads text")
    return complete_source(Source(**options), lines=True)


def find_columns(source: Source, modality: Modality, asked: str | list[str] | None, trained: object) -> list[str]:
    """Return the columns of the inputs: those asked for, those of the training rows, or those found by name.

    Raises DataError if the first row lacks them, or ConfigError if none are found, or not as many as trained on.
    """
    head, failure = read_head(source)
    if not head:
        raise (failure.at("source") if isinstance(failure, OptionError) else failure) or DataError(
            f"{display_name(source)}: no rows"
        )
    location, row = head[0]
    there = list_columns(row)
    for names in (asked, trained):
        missing = [name for name in to_list(names or []) if find_value(row, name) is MISSING]
        if names and not missing:
            return to_list(names)
        if names and names == asked:
            raise DataError(f"{location}: no column {missing[0]!r}{suggest(missing[0], there)}; set text=COLUMN")
    found = to_list(modality.find_columns(there) or (there if len(there) == 1 else []))
    if found and trained and len(found) != len(expected := to_list(trained)):
        columns = "COLUMN" if len(expected) == 1 else "[FIRST,SECOND]"
        raise ConfigError(f"text: the model was trained on {' and '.join(expected)}; set text={columns}")
    if found:
        return found
    shown = ", ".join(there[:12])
    raise ConfigError(f"text: which column has the {modality.input_noun}? There are {shown}; set text=COLUMN")


def open_table(
    source: Source, modality: Modality, problem_type: ProblemType, asked: str | list[str] | None, trained: object
) -> Table:
    """Return the table of a source, as `complete_text_source` returns it, after a first pass over its rows."""
    table = Table(source, find_columns(source, modality, asked, trained), modality, problem_type)
    table.scan()
    return table


def iter_texts(texts: list[str], modality: Modality, problem_type: ProblemType, trained: object = None) -> list[Item]:
    """Return single texts as items; a text is a row with the column `text`.

    trained: columns of the training rows, if they are known. Raises ConfigError for several, and for an empty text.
    """
    if len(columns := to_list(trained or [])) > 1:
        raise ConfigError(f"texts: the model reads {' and '.join(columns)} together; give rows with both, file=FILE")
    items = []
    for number, text in enumerate(texts, 1):
        example = modality.read_input({"text": text}, ["text"], problem_type, f"text {number}")
        if example is None:
            raise ConfigError(f"text {number} is empty")
        items.append(Item({"text": text}, example, False, text))
    return items


def skip(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Return the items after the first `count`."""
    return islice(items, count, None)
