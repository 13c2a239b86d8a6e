"""Tags of words: rows with a list of words and a list of tags, converted to IOB2.

An entity is B-X followed by I-X; every other word is O (Tjong Kim Sang and Veenstra 1999).
"""

from collections.abc import Iterable

from data.sources.conll import TAG_PATTERN
from data.sources.values import get_list
from engine.errors import DataError, suggest


def read_list(row: dict, column: str, location: str) -> list[str]:
    """Return the values of a list column. Raises DataError when it holds no list."""
    values = get_list(row, column, location)
    if values is None:
        raise DataError(f"{location}: column {column!r} holds no list; words and tags must be lists of equal length")
    return values


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
