"""Labelled rows: read, split by a hash of the text, and a stratified few of them taken by seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from data.sources import Source, identity as source_identity, name_of, rows, text_of
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
    text: str | Annotated[list[str], Field(min_length=1, max_length=2)] = "text"
    """The column that holds the text, or two for a pair."""
    label: str = "label"
    """The column that holds the label."""
    label_names: dict[str, str] = {}
    """Names for the labels as they stand in the file; none: the labels themselves."""
    labels: PositiveInt | Literal["all"] = "all"
    """Training labels taken, stratified, by seed; the validation and test rows never change with it."""
    per_class: PositiveInt | None = None
    """Training labels taken of each class instead, by seed; all of a class that has fewer."""
    deduplicate: bool = False
    """Drop rows whose text (white space and case aside) stood before, ahead of splitting."""


class Example(NamedTuple):
    """One labelled row."""

    texts: tuple[str, ...]
    """One text, or the two of a pair."""
    label: str
    """The label's name."""


def normal(texts: tuple[str, ...]) -> str:
    """A text as compared: white space and case aside."""
    return "\0".join(" ".join(text.split()).casefold() for text in texts)


def text_hash(texts: tuple[str, ...]) -> str:
    """What splits are decided by: it follows the text alone, not its place in the file."""
    return hashlib.sha256(normal(texts).encode("utf-8", "replace")).hexdigest()


def read_rows(task: Task, source: Source) -> list[Example]:
    """The examples of one source. Raises DataError naming the row, column or label at fault."""
    columns = [task.text] if isinstance(task.text, str) else list(task.text)
    where, found, seen = name_of(source), [], set()
    for number, row in enumerate(rows(source), 1):
        texts = tuple(text_of(row, column, where) for column in columns)
        label = text_of(row, task.label, where).strip()
        for column, text in zip(columns, texts):
            if not text.strip():
                raise DataError(f"{where} row {number}: no text in column {column!r}")
        if not label:
            raise DataError(f"{where} row {number}: no label in column {task.label!r}")
        if task.label_names and label not in task.label_names:
            raise DataError(f"{where} row {number}: label {label!r} has no name in task.label_names"
                            f"{nearest(label, task.label_names)}")
        if not task.deduplicate or normal(texts) not in seen:
            found.append(Example(texts, task.label_names.get(label, label)))
        seen.add(normal(texts))
    if not found:
        raise DataError(f"{where}: no rows" + (f" where {source.where}" if source.where else ""))
    return found


def split_off(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(split off, the rest): within each label, the share whose text's hash is smallest."""
    by_label = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    off, rest = [], []
    for label in sorted(by_label):
        ordered = sorted(by_label[label], key=lambda example: text_hash(example.texts))
        count = round(share * len(ordered))
        off += ordered[:count]
        rest += ordered[count:]
    return off, rest


def without(examples: list[Example], others: list[Example]) -> list[Example]:
    """The examples that are left when each of the others, by its text, has been taken away once."""
    away = Counter(normal(example.texts) for example in others)
    left = []
    for example in examples:
        if away[normal(example.texts)]:
            away[normal(example.texts)] -= 1
        else:
            left.append(example)
    return left


def read(task: Task) -> dict[str, list[Example]]:
    """All rows as {"train", "validation", "test"}. The same rows land in the same split whatever their order."""
    train = read_rows(task, task.train)
    sizes = len(train)
    if task.test:
        test = read_rows(task, task.test)
        if task.test_holds_train:
            test = without(test, train)
    else:
        test, train = split_off(train, task.test_share)
    if task.validation:
        validation = read_rows(task, task.validation)
    else:
        # The share is of all rows, so that a validation split after the test split is as large as it says.
        validation, train = split_off(train, task.validation_share * sizes / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    known = {example.label for example in train}
    if len(known) < 2:
        raise DataError(f"{name_of(task.train)}: every row has the label {min(known, default='')!r};"
                        " a classifier needs two classes or more")
    for split in ("validation", "test"):
        if not splits[split]:
            raise DataError(f"{name_of(task.train)}: {sizes} rows are too few to split off {split} rows")
        unseen = Counter(example.label for example in splits[split] if example.label not in known)
        for label, count in unseen.items():
            raise DataError(f"{name_of(getattr(task, split) or task.train)}: label {label!r} ({count} {split} row"
                            f"{'s' * (count > 1)}) is never seen in training{nearest(label, known)}")
    return splits


def label_list(task: Task, splits: dict[str, list[Example]]) -> list[str]:
    """The labels' names in the order of their ids: as `label_names` lists them, else sorted."""
    present = {example.label for example in splits["train"]}
    return [name for name in dict.fromkeys(task.label_names.values()) if name in present] or sorted(present)


def few(examples: list[Example], count: int | Literal["all"], seed: int, per_class: int | None = None) -> list[Example]:
    """`count` examples, each class in proportion, or `per_class` of each; by seed; fewer are always among more.

    Raises ConfigError.
    """
    if count == "all" and per_class is None:
        return examples
    by_label = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    if per_class is None and count > len(examples):
        raise ConfigError(f"task.labels={count}: there are {len(examples)} training rows; give a smaller number or all")
    if per_class is None and count < len(by_label):
        raise ConfigError(f"task.labels={count}: fewer than the {len(by_label)} classes; give {len(by_label)} or more")
    ranked = []
    for index, label in enumerate(sorted(by_label)):
        own = by_label[label]
        order = np.random.Generator(np.random.Philox(key=[seed, index])).permutation(len(own))
        # One of each class first, then the rest in proportion (Webster's method: unlike the largest remainder, it never
        # takes fewer of a class when more are taken in all).
        ranked += [(rank > 0, (rank - 0.5) / max(1, len(own) - 1), index, own[place])
                   for rank, place in enumerate(order)]
    if per_class:
        # In the order of the draw, class by class: the same rows first as `count` would take.
        drawn = {index: [entry for entry in ranked if entry[2] == index] for index in range(len(by_label))}
        chosen = [entry for own in drawn.values() for entry in own[:per_class]]
    else:
        chosen = sorted(ranked, key=lambda entry: entry[:3])[:count]
    return [example for *_, example in sorted(chosen, key=lambda entry: (entry[2], *entry[:2]))]


def identity(task: Task) -> dict:
    """What a fingerprint of the task's rows is made of; the number of labels taken is not part of it."""
    told = task.model_dump(mode="json", exclude={"labels", "per_class"})
    return told | {split: source_identity(getattr(task, split))
                   for split in ("train", "validation", "test") if getattr(task, split)}
