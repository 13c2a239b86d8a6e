"""Tags of words: rows with a list of words and a list of tags, converted to IOB2.

An entity is B-X followed by I-X; every other word is O (Tjong Kim Sang and Veenstra 1999). Entities
may also be spans of characters, as annotation tools write them.
"""

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from data.sources.conll import TAG_PATTERN
from data.sources.values import find_value, get_list, get_text, get_value
from engine.errors import DataError, suggest


def read_list(row: dict, column: str, location: str) -> list[str]:
    """Return the values of a list column. Raises DataError when it holds no list."""
    values = get_list(row, column, location)
    if values is None:
        raise DataError(f"{location}: column {column!r} holds no list; words and tags must be lists of equal length")
    return values


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`, and their label."""

    start: int
    end: int
    label: str


def parse_span(value: object, text: str) -> Span | None:
    """Parse [start, end, label], [label, start, end] or an object with start, end and label; None for anything else."""
    if isinstance(value, dict):
        labels = value.get("label", value.get("labels"))
        label = labels[0] if isinstance(labels, list) and len(labels) == 1 else labels
        ends = [value.get(f"{key}_offset", value.get(key)) for key in ("start", "end")]
        if isinstance(value.get("text"), str) and all(type(end) is int for end in ends):
            ends = fit_offsets(text, *ends, value["text"])
        value = [*ends, label]
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    start, end, label = [*value[1:], value[0]] if isinstance(value[0], str) else value
    is_span = type(start) is int and type(end) is int and isinstance(label, str) and label.strip()
    return Span(start, end, label.strip()) if is_span else None


def fit_offsets(text: str, start: int, end: int, inside: str) -> list[int]:
    """Return offsets in characters, also of offsets in UTF-16 code units, by which JavaScript counts."""
    if text[start:end] != inside:
        units = text.encode("utf-16-le")
        before, within = units[: 2 * start], units[2 * start : 2 * end]
        if within.decode("utf-16-le", "ignore") == inside:
            start = len(before.decode("utf-16-le", "ignore"))
            return [start, start + len(inside)]
    return [start, end]


def read_spans(row: dict, text_column: str, column: str, location: str) -> list[Span] | None:
    """Return the spans of a row in order; None if its column holds something else, such as a list of tags.

    Raises DataError for a span outside of the text and for spans that overlap.
    """
    value, text = get_value(row, column, location), get_text(row, text_column, location)
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    spans = [parse_span(part, text) for part in value] if isinstance(value, list) else [None]
    if None in spans:
        return None
    spans, end = sorted(spans), 0
    for span in spans:
        place = f"{location}: span {span.start} to {span.end} ({span.label}) in column {column!r}"
        if not 0 <= span.start < span.end <= len(text):
            raise DataError(f"{place} is not inside the text of {len(text)} characters")
        if span.start < end:
            raise DataError(f"{place} overlaps the one before; a word has one tag")
        end = span.end
    return spans


def split_at_spans(text: str, spans: list[Span]) -> tuple[list[str], list[str]]:
    """Return the words of a text and their tags; words end at white space and where a span starts or ends."""
    words, tags, at = [], [], 0
    for start, end, label in [*spans, Span(len(text), len(text), "")]:
        for place, name in (((at, start), ""), ((start, end), label)):
            inside = re.findall(r"\S+", text[slice(*place)])
            words += inside
            tags += [f"{'I' if index else 'B'}-{name}" if name else "O" for index in range(len(inside))]
        at = end
    return words, tags


def find_words(row: dict, column: str, location: str) -> list[str] | None:
    """Return the words of a row that holds a list, also of one written as text; None for any other text.

    Raises DataError for a list of anything but words.
    """
    if not isinstance(find_value(row, column), str):
        return get_list(row, column, location)
    try:
        return get_list(row, column, location)
    except DataError:  # a text in brackets
        return None


def join_words(row: dict, column: str, location: str) -> str:
    """Join the words of a row by spaces. Raises DataError for a word that is empty or contains a space."""
    words = read_list(row, column, location)
    for word in words:
        if not word or " " in word:
            raise DataError(f"{location}: the word {word!r} {'contains a space' if word else 'is empty'}")
    return " ".join(words)


def read_tags(
    row: dict, words_column: str, tags_column: str, label_names: dict[str, str], location: str
) -> tuple[str, ...]:
    """Return a row's tags in IOB2, one for each word. Raises DataError when counts differ or a tag is malformed."""
    tags, num_words = read_list(row, tags_column, location), len(read_list(row, words_column, location))
    if len(tags) != num_words:
        counts = f"{num_words} words in column {words_column!r}, but {len(tags)} tags in column {tags_column!r}"
        raise DataError(f"{location}: {counts}")
    names = []
    for number, tag in enumerate(tags, 1):
        if label_names and tag not in label_names:
            raise DataError(f"{location}: tag {tag!r} has no name in task.label_names{suggest(tag, label_names)}")
        names.append(label_names.get(tag, tag))
        if not TAG_PATTERN.fullmatch(names[-1]):
            raise DataError(f"{location}: tag {number}, {names[-1]!r}, is not O, B-X or I-X")
    return to_iob2(names)


def to_iob2(tags: Iterable[str]) -> tuple[str, ...]:
    """Convert IOB1, IOB2, IOE, BIOES or BILOU tags to IOB2.

    An entity starts at B, S and U, after O, E, S, L and U, and where the type changes. So an I-X that follows no X,
    invalid in IOB2, starts one, as in IOB1 and in CoNLL-2000's evaluation script.
    """
    converted, current = [], None
    for tag in tags:
        prefix, kind = tag[0], tag[2:]
        converted.append(tag if tag == "O" else f"{'I' if current == kind and prefix not in 'BSU' else 'B'}-{kind}")
        current = None if prefix in "OESLU" else kind
    return tuple(converted)


def expand_tags(tags: Iterable[str]) -> list[str]:
    """List all tags of the types in `tags` in the order of their ids: O, then B-X and I-X of each type, sorted."""
    return ["O", *(f"{prefix}-{kind}" for kind in sorted({tag[2:] for tag in tags} - {""}) for prefix in "BI")]


def find_entities(tags: Iterable[str]) -> list[tuple[str, int, int]]:
    """List (type, first word, word after the last) of the entities in tags; a tag without a prefix is a type itself.

    An I-X that follows no X starts an entity, as in `to_iob2`.
    """
    entities: list[list] = []
    previous = None
    for index, tag in enumerate([*tags, "O"]):
        prefix, dash, kind = tag.partition("-")
        kind = kind if dash and prefix in "BI" else tag
        continues = kind == previous and not (dash and prefix == "B")
        if tag != "O" and continues:
            entities[-1][2] = index + 1
        elif tag != "O":
            entities.append([kind, index, index + 1])
        previous = None if tag == "O" else kind
    return [tuple(entity) for entity in entities]
