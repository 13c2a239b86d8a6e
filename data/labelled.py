"""Labelled rows: read, and split into training, validation and test. What a label is depends on what is learned of it:

    read(task) -> {"train": [Example(texts, "positive"), ...], ...}     a class
    read(task, "labels")                 Example(texts, ("Humans", "Adult")), and () where no label applies
    read(task, "number")                 Example(texts, 3.5)
    read(task, "tags")                   Example(("Anna in Rome",), ("B-person", "O", "B-place")): its words by a space
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from data import tags
from data.draws import Example, few, normal, split_off, without  # noqa: F401
from data.sources import Source, identity as source_identity, name_of, plain, rows, text_of
from engine.config import Section
from engine.errors import ConfigError, DataError, nearest

SplitShare = Annotated[float, Field(gt=0, lt=0.5)]


class Task(Section):
    """A labelled task: where its rows are and which columns hold what."""

    name: str
    """What the task is called."""
    train: Source
    """Rows to learn from; validation and test rows are split off it when they have no source of their own."""
    validation: Source | None = None
    """Rows that decide when to stop."""
    test: Source | None = None
    """Rows that are only measured on."""
    test_holds_train: bool = False
    """Whether the test source holds the training rows too; each is then taken away from it, once."""
    validation_share: SplitShare = 0.125
    """Share of the training rows split off for validation."""
    test_share: SplitShare = 0.125
    """Share of the training rows split off for the test."""
    text: str | Annotated[list[str], Field(min_length=1)] = "text"
    """The column that holds the text, or two for a pair; more are joined by the tokenizer's separator."""
    label: str = "label"
    """The column that holds the label, or a list of labels, or a number, or a list of tags."""
    label_names: dict[str, str] = {}
    """Names for the labels as they stand in the file; none: the labels themselves. Where a text has several labels, those
    that are not named are left aside."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """What stands between several labels written as one text."""
    labels: PositiveInt | Literal["all"] = "all"
    """Training labels taken, stratified, by seed; the validation and test rows never change with it. all: the validation rows
    split off as well, where train.best=false has no use for them."""
    per_class: PositiveInt | None = None
    """Training labels taken of each class instead, by seed; all of a class that has fewer."""
    deduplicate: bool = False
    """Drop rows whose text (white space and case aside) stood before, ahead of splitting."""

    younger: ClassVar[tuple[str, ...]] = ("label_separator",)


def one_class(row: dict, task: Task, where: str, number: int) -> str:
    """The class of a row."""
    label = text_of(row, task.label, where).strip()
    if isinstance(row[task.label], (list, tuple)):
        raise DataError(f"{where} row {number}: column {task.label!r} holds a list; what learns from lists is"
                        " head.name=multilabel, and of tags head.name=tokens")
    if not label:
        raise DataError(f"{where} row {number}: no label in column {task.label!r}")
    if task.label_names and label not in task.label_names:
        raise DataError(f"{where} row {number}: label {label!r} has no name in task.label_names"
                        f"{nearest(label, task.label_names)}")
    return task.label_names.get(label, label)


def several(row: dict, task: Task, where: str, number: int) -> tuple[str, ...]:
    """The labels of a row, each once: of a list, or of a text that is split."""
    text, value = text_of(row, task.label, where), row[task.label]
    parts = value if isinstance(value, (list, tuple)) else text.split(task.label_separator)
    if any(part is None or isinstance(part, (list, tuple, dict)) for part in parts):
        raise DataError(f"{where} row {number}: {text} in column {task.label!r} is no list of labels")
    labels = [label for label in (plain(part).strip() for part in parts) if label]
    if task.label_names:
        labels = [task.label_names[label] for label in labels if label in task.label_names]
    return tuple(dict.fromkeys(labels))


def finite(row: dict, task: Task, where: str, number: int) -> float:
    """The number of a row; `label_names` may say which number a word stands for."""
    written = text_of(row, task.label, where).strip()
    try:
        value = float(task.label_names.get(written, written))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} row {number}: {written!r} in column {task.label!r} is no finite number")
    return value


def tags_of_words(row: dict, task: Task, where: str, number: int) -> tuple[str, ...]:
    """The tags of a row's words, in IOB2."""
    return tags.tags_of(row, task.text, task.label, task.label_names, f"{where} row {number}")


KINDS: dict[str, Callable[[dict, Task, str, int], str | tuple[str, ...] | float]] = {
    "class": one_class, "labels": several, "number": finite, "tags": tags_of_words}
"""How the label of a row is read: the row, the task, what an error calls the source, the row's number."""


def read_rows(task: Task, source: Source, kind: str = "class") -> list[Example]:
    """The examples of one source. Raises DataError naming the row, column or label at fault."""
    columns = [task.text] if isinstance(task.text, str) else list(task.text)
    where, found, seen = name_of(source), [], set()
    if kind == "tags" and not isinstance(task.text, str):
        raise ConfigError(f"task.text: tags are of the words in one column, not of {' and '.join(columns)}")
    for number, row in enumerate(rows(source), 1):
        texts = tuple(text_of(row, column, where) if kind != "tags" else
                      tags.words_of(row, column, f"{where} row {number}") for column in columns)
        label = KINDS[kind](row, task, where, number)
        for column, text in zip(columns, texts):
            if not text.strip():
                raise DataError(f"{where} row {number}: no text in column {column!r}")
        if not task.deduplicate or normal(texts) not in seen:
            found.append(Example(texts, label))
        seen.add(normal(texts))
    if not found:
        raise DataError(f"{where}: no rows" + (f" where {source.where}" if source.where else ""))
    return found


def read(task: Task, kind: str = "class") -> dict[str, list[Example]]:
    """All rows as {"train", "validation", "test"}. The same rows land in the same split whatever their order.

    kind: one of KINDS, which the head that learns from them says. Raises DataError where there is nothing to learn.
    """
    train = read_rows(task, task.train, kind)
    sizes = len(train)
    if task.test:
        test = read_rows(task, task.test, kind)
        if task.test_holds_train:
            test = without(test, train)
    else:
        test, train = split_off(train, task.test_share)
    if task.validation:
        validation = read_rows(task, task.validation, kind)
    else:
        # The share is of all rows, so that a validation split after the test split is as large as it says.
        validation, train = split_off(train, task.validation_share * sizes / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    known = {name for example in train for name in example.names}
    if kind == "tags":
        if known <= {"O"}:
            raise DataError(f"{name_of(task.train)}: every tag is O; there is no entity to learn")
        known = set(tags.every(known))  # an I-X in no training row is not unheard of where there is a B-X
    elif len({frozenset(example.names) or example.label for example in train}) < 2:
        raise DataError(f"{name_of(task.train)}: {nothing_to_learn(task, train, kind)}")
    if kind == "labels":
        for name in task.label_names.values():
            if name not in known:
                raise DataError(f"{name_of(task.train)}: no training row has the label {name!r} of task.label_names")
    for split in ("validation", "test"):
        if not splits[split]:
            raise DataError(f"{name_of(task.train)}: {sizes} rows are too few to split off {split} rows")
        unseen = Counter(name for example in splits[split] for name in example.names if name not in known)
        for label, count in unseen.items():
            raise DataError(f"{name_of(getattr(task, split) or task.train)}: label {label!r} ({count} {split} row"
                            f"{'s' * (count > 1)}) is never seen in training{nearest(label, known)}")
    return splits


def nothing_to_learn(task: Task, train: list[Example], kind: str) -> str:
    """What is told when all rows say the same."""
    said = train[0].label if train else ""
    if kind == "class":
        return f"every row has the label {said!r}; a classifier needs two classes or more"
    if said == ():
        return f"no row has a label in column {task.label!r}" + " that task.label_names names" * bool(task.label_names)
    return f"every row says {said!r} in column {task.label!r}; there is nothing to learn"


def label_list(task: Task, splits: dict[str, list[Example]], kind: str = "class") -> list[str]:
    """The labels' names in the order of their ids: as `label_names` lists them, else sorted; of numbers, the column's;
    of tags, O and then B-X and I-X of each type."""
    present = {name for example in splits["train"] for name in example.names}
    if kind == "tags":
        return tags.every(present)
    if not present:
        return [task.label]
    return [name for name in dict.fromkeys(task.label_names.values()) if name in present] or sorted(present)


def identity(task: Task) -> dict:
    """What a fingerprint of the task's rows is made of; the number of labels taken is not part of it."""
    told = task.model_dump(mode="json", exclude={"labels", "per_class"})
    return told | {split: source_identity(getattr(task, split))
                   for split in ("train", "validation", "test") if getattr(task, split)}
