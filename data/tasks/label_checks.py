"""Checks of the labels of a task's rows: what cannot be learned is an error, what is doubtful a warning."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from data.sources.source import display_name
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError, suggest
from engine.log import warn_once

TOO_FEW_ROWS = {
    "validation": "train.load_best=false (or METHOD=fewshot) uses none",
    "test": "task.test.files=FILE names some",
}
MISSING_WORDS = {"", "-", "?", "#n/a", "<na>", "n/a", "na", "nan", "null"}
MARKS = {"Pd": "-", "Pi": "'", "Pf": "'", "Cf": ""}
"""By Unicode category, what dashes and quotes of typesetting, and invisible characters, are typed as."""
MAX_NAMED = 5


def count_rows(number: int) -> str:
    """Return the number of rows in words."""
    return f"{number:,} row{'s' * (number > 1)}"


def check_labels(task: Section, splits: dict[str, list[Example]], num_rows: int, needs_validation: bool) -> None:
    """Raise DataError when labels are constant, missing from the training rows, or a split is empty.

    A class of test rows alone is no error, but a warning, because no training row could have been chosen for it; the
    model is wrong on these rows. One that is written like a class of the training rows is an error.
    """
    location, problem_type = display_name(task.train), task.load_problem_type()
    known = problem_type.known_labels(task, splits["train"], location)
    check_classes(task, splits, location)
    if alike := find_similar_labels(known):
        shown = "; ".join(" and ".join(map(ascii, group)) for group in alike[:MAX_NAMED])
        warn_once(f"{location}: different labels that look alike, or like a missing value: {shown}")
    for split in ("validation", "test"):
        if needs_validation or split == "test":
            check_split(task, split, splits[split], num_rows)
        if problem_type.has_open_labels:
            continue
        unseen = count_unseen(splits[split], known)
        source = display_name(getattr(task, split) or task.train)
        if split == "test" and problem_type.has_single_class and not find_typo(unseen, known):
            warn_unseen(source, unseen, known)
            continue
        for label in find_typo(unseen, known) or unseen:
            raise DataError(
                f"{source}: label {label!r} ({unseen[label]} {split} row{'s' * (unseen[label] > 1)}) does not occur in"
                f" the training rows{suggest(label, known)}"
            )


def check_classes(task: Section, splits: dict[str, list[Example]], location: str) -> None:
    """Raise DataError for a label that is none of `task.classes`."""
    for example in (row for rows in splits.values() for row in rows) if task.classes else ():
        for name in example.label_names:
            if name not in task.classes:
                raise DataError(f"{location}: label {name!r} is not in task.classes{suggest(name, task.classes)}")


def count_unseen(examples: list[Example], known: Iterable[str]) -> Counter:
    """Count the rows of each label that is not among the known ones."""
    return Counter(name for example in examples for name in example.label_names if name not in known)


def find_typo(unseen: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the labels that are written like a known one, but for case, quotes and the like, and those such as nan."""
    unseen = set(unseen)
    groups = [group for group in find_similar_labels([*unseen, *known]) if len(group) == 1 or not unseen >= set(group)]
    return [label for group in groups for label in group if label in unseen]


def warn_unseen(source: str, unseen: Counter, known: Iterable[str]) -> None:
    """Log the classes of test rows that no training row has, with the nearest known one of a single class."""
    if not unseen:
        return
    named = ", ".join(f"{label!r}" for label, _ in unseen.most_common(MAX_NAMED)) + ", ..." * (len(unseen) > MAX_NAMED)
    hint = suggest(next(iter(unseen)), known) if len(unseen) == 1 else ""
    count, plural = sum(unseen.values()), len(unseen) > 1
    warn_once(
        f"{source}: {count} test row{'s' * (count > 1)} of {'classes' if plural else 'a class'} that no training row"
        f" has count{'s' * (count == 1)} as {'errors' if count > 1 else 'an error'}: {named}{hint}"
    )


def check_split(task: Section, split: str, examples: list[Example], num_rows: int) -> None:
    """Raise DataError if this split has no row. num_rows: from which its rows are split off, without a source."""
    if not examples and (source := getattr(task, split)):
        raise DataError(f"{display_name(source)}: every {split} row is a training row, and is left out; name others")
    if not examples:
        raise DataError(
            f"{display_name(task.train)}: {num_rows} rows are too few to split off {split} rows; {TOO_FEW_ROWS[split]}"
        )


def find_similar_labels(labels: Iterable[str]) -> list[list[str]]:
    """Return groups of labels equal but for case, marks, Unicode form, invisible characters or the zeros of a number.

    A label such as nan or null, by which programs mean a missing one, is a group of its own.
    """
    groups: dict[str | float, list[str]] = {}
    for label in sorted(labels):
        normal = unicodedata.normalize("NFKC", label)
        key = "".join(MARKS.get(unicodedata.category(character), character) for character in normal)
        key = " ".join(key.strip("\"' ").casefold().split())
        with suppress(ValueError):
            key = key if key in MISSING_WORDS or "_" in key else float(key)  # which reads 1_0 as 10
        groups.setdefault(key, []).append(label)
    return [group for key, group in groups.items() if len(group) > 1 or key in MISSING_WORDS]
