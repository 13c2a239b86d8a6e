"""Labelled rows: read, and split into training, validation and test. What a label is depends on what is learned of it:

read_task(task) -> {"train": [Example(texts, "positive"), ...], ...}     a class
read_task(task, "labels")                 Example(texts, ("Humans", "Adult")), and () where no label applies
read_task(task, "number")                 Example(texts, 3.5)
read_task(task, "tags")                   Example(("Anna in Rome",), ("B-person", "O", "B-place")): its words by a space
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from data.sources.source import (
    Source,
    display_name,
    fingerprint_inputs as source_identity,
    get_text,
    iter_rows,
    to_text,
)
from data.tasks import iob
from data.tasks.splits import Example, normalize, sample_examples, split_off, subtract  # noqa: F401
from engine.config.schema import Section
from engine.errors import ConfigError, DataError, suggest

SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]


ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]


class Task(Section):
    """A labelled task: where its rows are and which columns hold what."""

    name: str
    """What the task is called."""
    problem_type: ProblemType = "single_label_classification"
    """What a label is: one class, several labels or none, a number, or a tag for each word."""
    train: Source
    """Rows to learn from; validation and test rows are split off it when they have no source of their own."""
    validation: Source | None = None
    """Rows that decide when to stop."""
    test: Source | None = None
    """Rows that are only measured on."""
    test_holds_train: bool = False
    """Whether the test source holds the training rows too; each is then taken away from it, once."""
    validation_fraction: SplitFraction = 0.125
    """Share of the training rows split off for validation."""
    test_fraction: SplitFraction = 0.125
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
    num_examples: PositiveInt | Literal["all"] = "all"
    """Training labels taken, stratified, by seed; the validation and test rows never change with it. all: the validation rows
    split off as well, where train.load_best=false has no use for them."""
    shots: PositiveInt | None = None
    """Training labels taken of each class instead, by seed; all of a class that has fewer."""
    deduplicate: bool = False
    """Drop rows whose text (white space and case aside) stood before, ahead of splitting."""

    added_later: ClassVar[tuple[str, ...]] = ("label_separator",)


def parse_class(row: dict, task: Task, source_name: str, row_number: int) -> str:
    """The class of a row."""
    label = get_text(row, task.label, source_name).strip()
    if isinstance(row[task.label], (list, tuple)):
        raise DataError(
            f"{source_name} row {row_number}: column {task.label!r} holds a list; what learns from lists is"
            " head.name=multilabel, and of tags head.name=token_classification"
        )
    if not label:
        raise DataError(f"{source_name} row {row_number}: no label in column {task.label!r}")
    if task.label_names and label not in task.label_names:
        raise DataError(
            f"{source_name} row {row_number}: label {label!r} has no name in task.label_names"
            f"{suggest(label, task.label_names)}"
        )
    return task.label_names.get(label, label)


def parse_labels(row: dict, task: Task, source_name: str, row_number: int) -> tuple[str, ...]:
    """The labels of a row, each once: of a list, or of a text that is split."""
    text, value = get_text(row, task.label, source_name), row[task.label]
    parts = value if isinstance(value, (list, tuple)) else text.split(task.label_separator)
    if any(part is None or isinstance(part, (list, tuple, dict)) for part in parts):
        raise DataError(f"{source_name} row {row_number}: {text} in column {task.label!r} is no list of labels")
    labels = [label for label in (to_text(part).strip() for part in parts) if label]
    if task.label_names:
        labels = [task.label_names[label] for label in labels if label in task.label_names]
    return tuple(dict.fromkeys(labels))


def parse_number(row: dict, task: Task, source_name: str, row_number: int) -> float:
    """The number of a row; `label_names` may say which number a word stands for."""
    written = get_text(row, task.label, source_name).strip()
    try:
        value = float(task.label_names.get(written, written))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{source_name} row {row_number}: {written!r} in column {task.label!r} is no finite number")
    return value


def parse_tags(row: dict, task: Task, source_name: str, row_number: int) -> tuple[str, ...]:
    """The tags of a row's words, in IOB2."""
    return iob.read_tags(row, task.text, task.label, task.label_names, f"{source_name} row {row_number}")


LABEL_PARSERS: dict[ProblemType, Callable[[dict, Task, str, int], str | tuple[str, ...] | float]] = {
    "single_label_classification": parse_class,
    "multi_label_classification": parse_labels,
    "regression": parse_number,
    "token_classification": parse_tags,
}
"""How the label of a row is read: the row, the task, what an error calls the source, the row's number."""


def read_examples(task: Task, source: Source) -> list[Example]:
    """The examples of one source. Raises DataError naming the row, column or label at fault."""
    columns = [task.text] if isinstance(task.text, str) else list(task.text)
    where, found, seen = display_name(source), [], set()
    if task.problem_type == "token_classification" and not isinstance(task.text, str):
        raise ConfigError(f"task.text: tags are of the words in one column, not of {' and '.join(columns)}")
    for number, row in enumerate(iter_rows(source), 1):
        texts = tuple(
            get_text(row, column, where)
            if task.problem_type != "token_classification"
            else iob.join_words(row, column, f"{where} row {number}")
            for column in columns
        )
        label = LABEL_PARSERS[task.problem_type](row, task, where, number)
        for column, text in zip(columns, texts):
            if not text.strip():
                raise DataError(f"{where} row {number}: no text in column {column!r}")
        if not task.deduplicate or normalize(texts) not in seen:
            found.append(Example(texts, label))
        seen.add(normalize(texts))
    if not found:
        raise DataError(f"{where}: no rows" + (f" where {source.where}" if source.where else ""))
    return found


def read_task(task: Task) -> dict[str, list[Example]]:
    """All rows as {"train", "validation", "test"}. The same rows land in the same split whatever their order.

    Raises DataError where there is nothing to learn.
    """
    train = read_examples(task, task.train)
    sizes = len(train)
    if task.test:
        test = read_examples(task, task.test)
        if task.test_holds_train:
            test = subtract(test, train)
    else:
        test, train = split_off(train, task.test_fraction)
    if task.validation:
        validation = read_examples(task, task.validation)
    else:
        # The share is of all rows, so that a validation split after the test split is as large as it says.
        validation, train = split_off(train, task.validation_fraction * sizes / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    known = {name for example in train for name in example.label_names}
    if task.problem_type == "token_classification":
        if known <= {"O"}:
            raise DataError(f"{display_name(task.train)}: every tag is O; there is no entity to learn")
        known = set(iob.expand_tags(known))  # an I-X in no training row is not unheard of where there is a B-X
    elif len({frozenset(example.label_names) or example.label for example in train}) < 2:
        raise DataError(f"{display_name(task.train)}: {describe_constant_labels(task, train)}")
    if task.problem_type == "multi_label_classification":
        for name in task.label_names.values():
            if name not in known:
                raise DataError(
                    f"{display_name(task.train)}: no training row has the label {name!r} of task.label_names"
                )
    for split in ("validation", "test"):
        if not splits[split]:
            raise DataError(f"{display_name(task.train)}: {sizes} rows are too few to split off {split} rows")
        unseen = Counter(name for example in splits[split] for name in example.label_names if name not in known)
        for label, count in unseen.items():
            raise DataError(
                f"{display_name(getattr(task, split) or task.train)}: label {label!r} ({count} {split} row"
                f"{'s' * (count > 1)}) is never seen in training{suggest(label, known)}"
            )
    return splits


def describe_constant_labels(task: Task, train: list[Example]) -> str:
    """What is told when all rows say the same."""
    said = train[0].label if train else ""
    if task.problem_type == "single_label_classification":
        return f"every row has the label {said!r}; a classifier needs two classes or more"
    if said == ():
        return f"no row has a label in column {task.label!r}" + " that task.label_names names" * bool(task.label_names)
    return f"every row says {said!r} in column {task.label!r}; there is nothing to learn"


def list_label_names(task: Task, splits: dict[str, list[Example]]) -> list[str]:
    """The labels' names in the order of their ids: as `label_names` lists them, else sorted; of numbers, the column's;
    of tags, O and then B-X and I-X of each type.
    """
    present = {name for example in splits["train"] for name in example.label_names}
    if task.problem_type == "token_classification":
        return iob.expand_tags(present)
    if not present:
        return [task.label]
    return [name for name in dict.fromkeys(task.label_names.values()) if name in present] or sorted(present)


def fingerprint_inputs(task: Task) -> dict:
    """What a fingerprint of the task's rows is made of; the number of labels taken is not part of it."""
    told = task.model_dump(mode="json", exclude={"num_examples", "shots"})
    return told | {
        split: source_identity(getattr(task, split))
        for split in ("train", "validation", "test")
        if getattr(task, split)
    }


class TaskFile(Section):
    """The task of a fine-tuning YAML; its other sections are ignored."""

    model_config = {"extra": "ignore"}
    task: Task

    def load_splits(self) -> dict[str, list[Example]]:
        """Read the task's rows in the splits that fine-tuning makes of them."""
        return read_task(self.task)

    def fingerprint_inputs(self) -> dict:
        """Return the inputs of a fingerprint of those rows."""
        return fingerprint_inputs(self.task)
