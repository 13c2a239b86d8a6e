"""Words with a tag each: rows of two lists, the tags made IOB2 whichever of the usual schemes they stand in.

An entity is B-X and as many I-X as it goes on; every other word is O (Tjong Kim Sang and Veenstra 1999).
"""

from __future__ import annotations

from collections.abc import Iterable

from data.conll import TAG
from data.sources import text_of
from engine.errors import DataError, nearest


def listed(row: dict, column: str, where: str) -> list[str]:
    """The values of a column that holds a list. Raises DataError for one that does not."""
    text_of(row, column, where)
    if not isinstance(row[column], (list, tuple)):
        raise DataError(f"{where}: column {column!r} holds no list; tags stand in a list beside a list of the words")
    return [text_of({column: value}, column, where) for value in row[column]]


def words_of(row: dict, column: str, where: str) -> str:
    """The words of a row with a space between, so that `.split(" ")` gives them back.

    Raises DataError for a word that is empty or holds a space.
    """
    words = listed(row, column, where)
    for word in words:
        if not word or " " in word:
            raise DataError(f"{where}: the word {word!r} {'holds a space' if word else 'is empty'}")
    return " ".join(words)


def tags_of(row: dict, words: str, label: str, label_names: dict[str, str], where: str) -> tuple[str, ...]:
    """The tags, in IOB2, of the list in the column `label`, one for each word in the column `words`.

    `label_names`, if there are, say what each stands for. Raises DataError where there are fewer or more, and for what
    is no tag.
    """
    tags, count = listed(row, label, where), len(row[words])
    if len(tags) != count:
        raise DataError(f"{where}: {count} words in column {words!r}, but {len(tags)} tags in column {label!r}")
    for place, tag in enumerate(tags, 1):
        if label_names and tag not in label_names:
            raise DataError(f"{where}: tag {tag!r} has no name in task.label_names{nearest(tag, label_names)}")
        if not TAG.fullmatch(label_names.get(tag, tag)):
            raise DataError(f"{where}: tag {place}, {label_names.get(tag, tag)!r}, is neither O nor B-X nor I-X")
    return iob2(label_names.get(tag, tag) for tag in tags)


def iob2(tags: Iterable[str]) -> tuple[str, ...]:
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


def every(tags: Iterable[str]) -> list[str]:
    """All tags of the types among these, in the order of their ids: O, then B-X and I-X of each type, sorted."""
    return ["O", *(f"{place}-{kind}" for kind in sorted({tag[2:] for tag in tags} - {""}) for place in "BI")]
