"""Labeled tasks: configuration, and rows read into training, validation and test examples.

`read_task(task)` returns {"train": [...], "validation": [...], "test": [...]}, lists of `Example`; the labels are those
of `task.problem_type`, a file in `data.tasks.problem_types`.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from data.sources.source import (
    FOLDER_COLUMN,
    Source,
    display_name,
    fingerprint_inputs as source_inputs,
    iter_located_rows,
    name_folder,
    resolve_files,
)
from data.sources.values import MISSING, find_value
from data.tasks.columns import describe_missing, read_head
from data.tasks.exports import read_export
from data.tasks.problem_types import ProblemType, load_problem_type
from data.tasks.splits import Example, normalize, sample_examples, split_off, subtract  # noqa: F401 (re-exported)
from engine.config.schema import FileName, PluginName, Section, WordMapping
from engine.errors import DataError, OptionError, suggest
from engine.log import warn_once

MAX_LABELS = 10_000
TOO_FEW_ROWS = {
    "validation": "train.load_best=false (or METHOD=fewshot) uses none",
    "test": "task.test.files=FILE names some",
}
MISSING_WORDS = {"", "-", "n/a", "nan", "null"}
SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]


class Task(Section):
    """A labeled task: the sources of its rows and the columns with texts and labels."""

    name: FileName
    """Name of the task, also of folders in out."""
    modality: PluginName("data.modalities") = "text"
    """Kind of the inputs."""
    problem_type: PluginName("data.tasks.problem_types") = "single_label_classification"
    """What a label is: one class, any number of labels, a number, or a tag for each word."""
    train: Source
    """Training rows; validation and test rows are split off them unless they have their own source."""
    validation: Source | None = None
    """Validation rows, used for checkpoint selection and calibration."""
    test: Source | None = None
    """Test rows, used only for the final evaluation."""
    test_holds_train: bool = False
    """Whether the test source includes the training rows; each of them is then removed from it once."""
    validation_fraction: SplitFraction = 0.125
    """Fraction of the training rows split off for validation."""
    test_fraction: SplitFraction = 0.125
    """Fraction of the training rows split off for testing."""
    text: str | Annotated[list[str], Field(min_length=1)] = "text"
    """Column of the text, or two for a pair; more are joined by the tokenizer's separator."""
    label: str | Annotated[list[str], Field(min_length=1)] = "label"
    """Column of the label, list of labels, number, list of tags or spans; or several, with 0 or 1 for a label each."""
    label_names: WordMapping = {}
    """Names of the labels in the file, or a list, by number; none: the labels themselves. With several labels per row,
    others are ignored."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """Separator of multiple labels written as one string."""
    descriptions: dict[str, str | list[str]] = {}
    """Texts that describe classes, {class: text or texts}, to train on instead of the class's name."""
    num_examples: NonNegativeInt | Literal["all"] = "all"
    """Training examples to use, stratified, by seed; 0: learn from the names of the classes and unlabeled text; all
    includes the validation rows if train.load_best=false."""
    shots: PositiveInt | None = None
    """Training examples of each class to use instead, by seed; all of a class with fewer."""
    deduplicate: bool = False
    """Whether to drop rows with a repeated text (ignoring whitespace and case) before splitting."""
    require_text: bool = False
    """Whether a row without text is an error; false: such rows are left out and counted."""

    added_later: ClassVar[tuple[str, ...]] = ("label_separator", "modality", "descriptions", "require_text")

    @field_validator("label")
    @classmethod
    def check_columns(cls, label: str | list[str], info: ValidationInfo) -> str | list[str]:
        """Return the column or columns. Raises ValueError for several that no problem type reads."""
        if not isinstance(label, str) and info.data.get("problem_type") != "multi_label_classification":
            raise ValueError("a column for each label needs task.problem_type=multi_label_classification")
        return label

    @field_validator("label_names", mode="before")
    @classmethod
    def number_names(cls, names: object) -> object:
        """Return a list of names as a mapping by number."""
        return dict(enumerate(names)) if isinstance(names, list) else names

    def load_problem_type(self) -> ProblemType:
        """Return the problem type."""
        return load_problem_type(self.problem_type)

    def iter_examples(self, source: Source, split: str) -> Iterator[Example | None]:
        """Yield the examples of a source, and None for a row without text. Raises DataError naming what is at fault."""
        problem_type, section = self.load_problem_type(), f"task.{split}"
        for location, row in iter_annotated_rows(self, source, section):
            try:
                yield read_example(problem_type, self, row, location)
            except OptionError as error:
                raise error.at(section) from None

    def fingerprint_source(self, source: Source) -> dict:
        """Return what determines the rows of a source."""
        inputs = source_inputs(source)
        if self.label == FOLDER_COLUMN:  # a renamed folder is another label
            inputs["folders"] = [name_folder(path) for path in resolve_files(source)]
        return inputs


def to_list(columns: str | list[str]) -> list[str]:
    """Return a list of the columns of a key that may have one."""
    return [columns] if isinstance(columns, str) else list(columns)


def iter_annotated_rows(task: Task, source: Source, section: str) -> Iterator[tuple[str, dict]]:
    """Yield (location, row) with `text` and `label` of an annotation tool's export; count what is not annotated.

    Raises DataError for missing columns, with the keys that would read the table.
    """
    head, failure = read_head(source)
    allow_empty = task.problem_type in ("multi_label_classification", "token_classification")
    exported = [(location, found) for location, row in head if (found := read_export(row, allow_empty)) is not None]
    if exported:
        rows, keys = [row for _, row in exported], {"task.text": to_list(task.text), "task.label": to_list(task.label)}
        missing = {
            column: key for key, names in keys.items() for column in names if find_value(rows[0], column) is MISSING
        }
        if missing:
            raise describe_missing(source, section, exported[0][0], missing, rows)
    if failure:
        raise failure.at(section) if isinstance(failure, OptionError) else failure
    num_left_out = 0
    try:
        for location, row in iter_located_rows(source):
            found = read_export(row, allow_empty)
            num_left_out += found is None
            if found is not None:
                yield location, found
    except OptionError as error:
        raise error.at(section) from None
    if num_left_out:
        warn_once(f"{display_name(source)}: {count_rows(num_left_out)} not annotated or rejected, left out")


def count_rows(number: int) -> str:
    """Return the number of rows in words."""
    return f"{number:,} row{'s' * (number > 1)}"


def read_example(problem_type: ProblemType, task: Task, row: dict, location: str) -> Example | None:
    """Return the example in a row, None for one without text. Raises DataError naming the row and column at fault."""
    row, columns = problem_type.prepare_row(row, task, location), to_list(task.text)
    texts = problem_type.read_texts(row, columns, location)
    if empty := [column for column, text in zip(columns, texts, strict=True) if not text.strip()]:
        if task.require_text:
            way_out = "task.require_text=false leaves such rows out"
            raise DataError(f"{location}: no text in column {empty[0]!r}; {way_out}")
        return None
    return Example(texts, problem_type.parse_label(row, task, location))


def read_examples(task: Task, source: Source, split: str = "train") -> list[Example]:
    """Read the examples of one source. Raises DataError naming the row, column or label at fault.

    Rows without text are left out and counted, or an error with `require_text`. split: that the source is of.
    """
    location, examples, seen, labels = display_name(source), [], set(), set()
    num_empty = 0
    for example in task.iter_examples(source, split):
        if example is None:
            num_empty += 1
            continue
        text = normalize(example.texts)
        if not task.deduplicate or text not in seen:
            examples.append(example)
            labels.update(examples[-1].label_names)
        seen.add(text)
        if len(labels) > MAX_LABELS:
            raise DataError(
                f"{location}: over {MAX_LABELS:,} different labels in the first {len(examples):,} rows of column"
                f" {task.label!r}; set task.label to the column of the classes, or task.problem_type=regression"
            )
    if num_empty:
        warn_once(f"{location}: {count_rows(num_empty)} without text left out")
    if not examples:
        selected = f" where {source.where}" if source.where else ""
        raise DataError(f"{location}: no rows{' with text' * bool(num_empty)}{selected}")
    return examples


def read_task(task: Task, needs_validation: bool = True) -> dict[str, list[Example]]:
    """Read and split all rows, whatever their order. Raises DataError when there is nothing to learn.

    needs_validation: whether it is an error if the rows are too few to split off validation rows.
    """
    train = read_examples(task, task.train)
    num_rows = len(train)
    if task.test:
        test = read_examples(task, task.test, "test")
        test = subtract(test, train) if task.test_holds_train else test
    else:
        test, train = split_off(train, task.test_fraction)
    if task.validation:
        validation = read_examples(task, task.validation, "validation")
    else:
        # The fraction refers to all rows, including those split off for testing.
        validation, train = split_off(train, task.validation_fraction * num_rows / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    check_labels(task, splits, num_rows, needs_validation)
    return splits


def check_labels(task: Task, splits: dict[str, list[Example]], num_rows: int, needs_validation: bool) -> None:
    """Raise DataError when labels are constant, missing from the training rows, or a split is empty."""
    location = display_name(task.train)
    known = task.load_problem_type().known_labels(task, splits["train"], location)
    if alike := find_similar_labels(known):
        shown = "; ".join(" and ".join(map(ascii, group)) for group in alike[:5])
        warn_once(f"{location}: different labels that look alike, or like a missing value: {shown}")
    for split in ("validation", "test"):
        if needs_validation or split == "test":
            check_split(task, split, splits[split], num_rows)
        open_labels = task.load_problem_type().has_open_labels
        names = [name for example in splits[split] for name in example.label_names] if not open_labels else []
        unseen = Counter(name for name in names if name not in known)
        for label, count in unseen.items():
            raise DataError(
                f"{display_name(getattr(task, split) or task.train)}: label {label!r} ({count} {split} row"
                f"{'s' * (count > 1)}) does not occur in the training rows{suggest(label, known)}"
            )


def check_split(task: Task, split: str, examples: list[Example], num_rows: int) -> None:
    """Raise DataError if none of the `num_rows` rows could be split off for this split."""
    if not examples:
        raise DataError(
            f"{display_name(task.train)}: {num_rows} rows are too few to split off {split} rows; {TOO_FEW_ROWS[split]}"
        )


def find_similar_labels(labels: Iterable[str]) -> list[list[str]]:
    """Return groups of labels equal but for case, quotes, Unicode form, invisible characters or the zeros of a number.

    A label such as nan or null, by which programs mean a missing one, is a group of its own.
    """
    groups: dict[str | float, list[str]] = {}
    for label in sorted(labels):
        key = "".join(each for each in unicodedata.normalize("NFKC", label) if unicodedata.category(each) != "Cf")
        key = " ".join(key.strip("\"' ").casefold().split())
        with suppress(ValueError):
            key = key if key in MISSING_WORDS else float(key)
        groups.setdefault(key, []).append(label)
    return [group for key, group in groups.items() if len(group) > 1 or key in MISSING_WORDS]


def list_label_names(task: Task, splits: dict[str, list[Example]]) -> list[str]:
    """List the names of the model's outputs, by id."""
    present = {name for example in splits["train"] for name in example.label_names}
    return task.load_problem_type().list_label_names(task, present)


def fingerprint_inputs(task: Task) -> dict:
    """Return the inputs of a fingerprint of the task's rows, whatever the number of examples used."""
    sources = {split: getattr(task, split) for split in ("train", "validation", "test") if getattr(task, split)}
    inputs = task.model_dump(mode="json", exclude={"num_examples", "shots", "descriptions"})
    return inputs | {split: task.fingerprint_source(source) for split, source in sources.items()}


class TaskFile(Section):
    """The task of a fine-tuning YAML; its other sections are ignored."""

    model_config = {"extra": "ignore"}
    task: Task

    def load_splits(self) -> dict[str, list[Example]]:
        """Read the task's rows in the splits that fine-tuning uses."""
        return read_task(self.task)

    def fingerprint_inputs(self) -> dict:
        """Return the inputs of a fingerprint of those rows."""
        return fingerprint_inputs(self.task)
