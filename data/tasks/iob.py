"""Words with a tag each: rows of two lists, the tags made IOB2 whichever of the usual schemes they stand in.

An entity is B-X and as many I-X as it goes on; every other word is O (Tjong Kim Sang and Veenstra 1999).
"""

from __future__ import annotations

from collections.abc import Iterable

from data.sources.conll import TAG_PATTERN
from data.sources.source import get_text
from engine.errors import DataError, suggest


def read_list(row: dict, column: str, location: str) -> list[str]:
    """The values of a column that holds a list. Raises DataError for one that does not."""
    get_text(row, column, location)
    if not isinstance(row[column], (list, tuple)):
        raise DataError(f"{location}: column {column!r} holds no list; tags stand in a list beside a list of the words")
    return [get_text({column: value}, column, location) for value in row[column]]


def join_words(row: dict, column: str, location: str) -> str:
    """The words of a row with a space between, so that `.split(" ")` gives them back.

    Raises DataError for a word that is empty or holds a space.
    """
    words = read_list(row, column, location)
    for word in words:
        if not word or " " in word:
            raise DataError(f"{location}: the word {word!r} {'holds a space' if word else 'is empty'}")
    return " ".join(words)


def read_tags(
    row: dict, words_column: str, tags_column: str, label_names: dict[str, str], location: str
) -> tuple[str, ...]:
    """The tags, in IOB2, of the list in the column `tags_column`, one for each word in the column `words_column`.

    `label_names`, if there are, say what each stands for. Raises DataError where there are fewer or more, and for what
    is no tag.
    """
    tags, count = read_list(row, tags_column, location), len(row[words_column])
    if len(tags) != count:
        raise DataError(
            f"{location}: {count} words in column {words_column!r}, but {len(tags)} tags in column {tags_column!r}"
        )
    for place, tag in enumerate(tags, 1):
        if label_names and tag not in label_names:
            raise DataError(f"{location}: tag {tag!r} has no name in task.label_names{suggest(tag, label_names)}")
        if not TAG_PATTERN.fullmatch(label_names.get(tag, tag)):
            raise DataError(f"{location}: tag {place}, {label_names.get(tag, tag)!r}, is neither O nor B-X nor I-X")
    return to_iob2(label_names.get(tag, tag) for tag in tags)


def to_iob2(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags of IOB1, IOB2, IOE, BIOES or BILOU as IOB2.

    An entity begins at B, S and U, after O, E, S, L and U, and where the type changes: so an I-X that follows no X,
    which IOB2 does not know, begins one, as it does in IOB1 and as CoNLL-2000's script counts it.
    """
    found, inside = [], None
    for tag in tags:
        place, kind = tag[0], tag[2:]
        found.append(tag if tag == "O" else f"{'I' if inside == kind and place not in 'BSU' else 'B'}-{kind}")
        inside = None if place in "OESLU" else kind
    return tuple(found)


def expand_tags(tags: Iterable[str]) -> list[str]:
    """All tags of the types among these, in the order of their ids: O, then B-X and I-X of each type, sorted."""
    return ["O", *(f"{place}-{kind}" for kind in sorted({tag[2:] for tag in tags} - {""}) for place in "BI")]
