"""Labeled tasks: configuration, and rows read into training, validation and test examples.

`read_task(task)` returns {"train": [...], "validation": [...], "test": [...]}, lists of `Example`; the labels are those
of `task.problem_type`, a file in `data.tasks.problem_types`. `read_all` returns the rows without a label too.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from data.sources.source import (
    FOLDER_COLUMN,
    Source,
    display_name,
    fingerprint_inputs as source_inputs,
    iter_located_rows,
    name_folder,
    resolve_files,
)
from data.sources.values import MISSING, find_value, is_empty, is_number
from data.tasks.answers import (
    ROLES,
    Row,
    has_column,
    is_answer,
    keep_last_answers,
    lacks_answer,
    read_role,
    restore_cells,
    without_texts_of,
)
from data.tasks.columns import describe_missing, read_head
from data.tasks.exports import export_text, read_export
from data.tasks.label_checks import check_labels, check_split as check_split, count_rows
from data.tasks.problem_types import ProblemType, load_problem_type
from data.tasks.splits import Example, normalize, sample_examples, split_off, subtract  # noqa: F401 (re-exported)
from engine.config.schema import FileName, PluginName, Section, WordMapping, numbers_to_words
from engine.errors import DataError, OptionError
from engine.log import warn_once

MAX_LABELS = 10_000
SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]


def number_to_word(value: object) -> object:
    """Return a whole number as a word, as people write the name of a numbered class."""
    return str(value) if type(value) is int else value


ClassName = Annotated[str, BeforeValidator(number_to_word)]


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
    unlabeled: Source | None = None
    """Texts without labels, besides the training rows with an empty label: for self-training, and to label."""
    role: str | None = None
    """Column of the training rows with their role: `measure`, the test rows unless `test` names some, which were drawn
    at random and are never trained on; all others are for training."""
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
    classes: list[ClassName] = []
    """The classes, in order; a label that is none of them is an error. None: those of the training rows."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """Separator of multiple labels written as one string."""
    descriptions: Annotated[dict[str, str | list[str]], BeforeValidator(numbers_to_words)] = {}
    """Texts that describe classes, {class: text or texts}, to train on instead of the class's name."""
    num_examples: NonNegativeInt | Literal["all"] = "all"
    """Training examples to use, stratified, by seed; 0: learn from class names and unlabeled text; all
    includes the validation rows if train.load_best=false."""
    shots: PositiveInt | None = None
    """Training examples of each class to use instead, by seed; all of a class with fewer."""
    deduplicate: bool = False
    """Whether to drop rows with a repeated text (ignoring whitespace and case) before splitting. Of equal texts,
    one with the role `measure` is kept."""
    require_text: bool = False
    """Whether a row without text is an error; false: such rows are left out and counted."""

    added_later: ClassVar[tuple[str, ...]] = (
        *("label_separator", "modality", "descriptions", "require_text"),
        *("unlabeled", "role", "classes"),
    )

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

    def iter_rows(self, source: Source, split: str) -> Iterator[Row]:
        """Yield the rows of a source. Raises DataError naming what is at fault.

        split: that the source is of; of `unlabeled`, labels are not read.
        """
        problem_type, section = self.load_problem_type(), f"task.{split}"
        for location, row in iter_annotated_rows(self, source, section):
            try:
                yield read_row(problem_type, self, row, location, split)
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


def check_texts(rows: list[dict], columns: list[str], location: str) -> None:
    """Raise DataError for a column with numbers alone; a number among texts is a text."""
    for column in columns:
        values = [value for row in rows if not is_empty(value := find_value(row, column))]
        if values and all(map(is_number, values)):
            raise DataError(f"{location}: column {column!r} holds numbers, not texts; set task.text=COLUMN")


def iter_annotated_rows(task: Task, source: Source, section: str) -> Iterator[tuple[str, dict]]:
    """Yield (location, row) with `text` and `label` of an annotation tool's export, an empty one if not annotated.

    Where an empty label is one too, rows that are not annotated are left out and counted.

    Raises DataError for missing columns, with the keys that would read the table.
    """
    allow_empty = task.problem_type in ("multi_label_classification", "token_classification")

    def read(row: dict) -> dict | None:
        is_unlabeled = section == "task.unlabeled"
        found = export_text(row) if is_unlabeled else read_export(row, allow_empty, to_list(task.label))
        return restore_cells(found) if found is not None else None

    head, failure = read_head(source)
    exported = [(location, found) for location, row in head if (found := read(row)) is not None]
    if exported:
        rows, keys = [row for _, row in exported], {"task.text": to_list(task.text)}
        if section != "task.unlabeled":
            keys["task.label"] = to_list(task.label)
        missing = {
            column: key for key, names in keys.items() for column in names if find_value(rows[0], column) is MISSING
        }
        if missing:
            raise describe_missing(source, section, exported[0][0], missing, rows)
        check_texts(rows, keys["task.text"], exported[0][0])
    if failure:
        raise failure.at(section) if isinstance(failure, OptionError) else failure
    num_left_out, may_be_empty = 0, task.load_problem_type().lacks_label({"label": ""}, "label")
    try:
        for location, row in iter_located_rows(source):
            found = read(row)
            if found is None and may_be_empty:
                found = export_text(row) | dict.fromkeys(to_list(task.label), "")
            num_left_out += found is None
            if found is not None:
                yield location, found
    except OptionError as error:
        raise error.at(section) from None
    if num_left_out:
        warn_once(f"{display_name(source)}: {count_rows(num_left_out)} not annotated or rejected, left out")


def read_row(problem_type: ProblemType, task: Task, row: dict, location: str, split: str) -> Row:
    """Return a row of a source. Raises DataError naming the row and column at fault.

    split: that the source is of.
    """
    row = problem_type.prepare_row(row, task, location) if split != "unlabeled" else row
    columns = to_list(task.text)
    texts = problem_type.read_texts(row, columns, location)
    if empty := [column for column, text in zip(columns, texts, strict=True) if not text.strip()]:
        if task.require_text:
            way_out = "task.require_text=false leaves such rows out"
            raise DataError(f"{location}: no text in column {empty[0]!r}; {way_out}")
        return Row(None)
    return label_row(problem_type, task, row, texts, location, split)


def label_row(
    problem_type: ProblemType, task: Task, row: dict, inputs: tuple[str, ...], location: str, split: str
) -> Row:
    """Return the inputs of a row with its label and its role. Raises DataError naming the row and column at fault."""
    is_unlabeled = split == "unlabeled" or problem_type.lacks_label(row, task.label) or lacks_answer(row)
    label = "" if is_unlabeled else problem_type.parse_label(row, task, location)
    column = task.role if split in ("train", "unlabeled") else None
    role, is_undo = read_role(row, column, location), is_answer(row) and row["answer"] == "undo"
    return Row(Example(inputs, label), role, has_column(row, column), is_answer(row), is_undo)


class SourceRows(NamedTuple):
    """The rows of one source."""

    labeled: list[Example]
    measure: list[Example]
    """Labeled rows with this role."""
    unlabeled: list[Example]
    """Rows with an empty label."""


def read_source(task: Task, source: Source, split: str = "train") -> SourceRows:
    """Read the rows of one source. Raises DataError naming the row, column or label at fault.

    Rows without text are left out and counted, or an error with `require_text`. split: that the source is of.
    """
    location, rows, labels = display_name(source), [], set()
    num_empty = 0
    for row in task.iter_rows(source, split):
        if row.example is None:
            num_empty += 1
            continue
        rows.append(row)
        labels.update(row.example.label_names)
        if len(labels) > MAX_LABELS:
            raise DataError(
                f"{location}: over {MAX_LABELS:,} different labels in the first {len(rows):,} rows of column"
                f" {task.label!r}; set task.label to the column of the classes, or task.problem_type=regression"
            )
    if num_empty:
        warn_once(f"{location}: {count_rows(num_empty)} without text left out")
    if not rows:
        selected = f" where {source.where}" if source.where else ""
        raise DataError(f"{location}: no rows{' with text' * bool(num_empty)}{selected}")
    if task.role and split == "train" and not any(row.has_role for row in rows):
        raise DataError(f"{location}: no column {task.role!r}; set task.role to the column of roles, or to none")
    rows = keep_last_answers(rows)
    found = {(is_labeled, role): [] for is_labeled in (True, False) for role in ROLES}
    for row in rows:
        found[row.has_label, row.role].append(row.example)
    labeled, measure = (found[True, role] for role in ROLES)
    if task.deduplicate:
        measure = without_texts_of(measure, [])
        labeled = without_texts_of(labeled, measure)
    if split != "unlabeled":
        if not labeled and not measure:
            raise DataError(f"{location}: none of {count_rows(len(rows))} has a label in column {task.label!r}")
        report_without_label(location, *(len(found[False, role]) for role in ROLES), split)
    return SourceRows(labeled, measure, found[False, "train"])


def report_without_label(location: str, num_train: int, num_measure: int, split: str) -> None:
    """Log the number of rows without a label, those for training and the test rows."""
    if num_train:
        use = "read as unlabeled text" if split == "train" else "left out"
        warn_once(f"{location}: {count_rows(num_train)} without a label {use}")
    if num_measure:
        warn_once(f"{location}: {num_measure:,} test row{'s' * (num_measure > 1)} without a label left out")


def read_examples(task: Task, source: Source, split: str = "train") -> list[Example]:
    """Read the labeled rows of one source, as `read_source` does."""
    found = read_source(task, source, split)
    return found.labeled + found.measure


def read_task(task: Task, needs_validation: bool = True) -> dict[str, list[Example]]:
    """Read and split the labeled rows, whatever their order. Raises DataError when there is nothing to learn.

    needs_validation: whether it is an error if the rows are too few to split off validation rows.
    """
    return read_all(task, needs_validation)[0]


def read_all(task: Task, needs_validation: bool = True) -> tuple[dict[str, list[Example]], list[Example]]:
    """Return the splits as `read_task` does, and the texts that no split has, without a label."""
    train, measure, unlabeled = read_source(task, task.train)
    num_rows = len(train)
    if measure and not train:
        raise DataError(
            f"{display_name(task.train)}: no labeled row has the role train in column {task.role!r}, so there is"
            " nothing to learn from; label some"
        )
    if task.test:
        test = read_examples(task, task.test, "test")
        test = subtract(test, train) if task.test_holds_train else test
        if measure:
            found = f"{display_name(task.train)}: {count_rows(len(measure))} with the role measure"
            warn_once(f"{found} left out, because task.test names the test rows")
    elif task.role:
        test = measure
        if not measure:
            raise DataError(
                f"{display_name(task.train)}: no labeled row has the role measure in column {task.role!r}, so nothing"
                " measures the model; label some, or set task.test.files=FILE, or task.role=none to split some off"
            )
    else:
        test, train = split_off(train, task.test_fraction)
    if task.validation:
        validation = read_examples(task, task.validation, "validation")
    else:
        # The fraction refers to all rows but those to measure by, also to those split off for testing above.
        validation, train = split_off(train, task.validation_fraction * num_rows / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    check_labels(task, splits, num_rows, needs_validation)
    if task.unlabeled:
        unlabeled = unlabeled + read_source(task, task.unlabeled, "unlabeled").unlabeled
    return splits, without_texts_of(unlabeled, [*train, *validation, *test, *measure])


def list_label_names(task: Task, splits: dict[str, list[Example]]) -> list[str]:
    """List the names of the model's outputs, by id."""
    present = {name for example in splits["train"] for name in example.label_names}
    return task.load_problem_type().list_label_names(task, present)


def fingerprint_inputs(task: Task) -> dict:
    """Return the inputs of a fingerprint of the task's rows, whatever the number of examples used."""
    splits = ("train", "validation", "test", "unlabeled")
    sources = {split: getattr(task, split) for split in splits if getattr(task, split)}
    inputs = task.model_dump(mode="json", exclude={"num_examples", "shots", "descriptions"})
    return inputs | {split: task.fingerprint_source(source) for split, source in sources.items()}


class TaskFile(Section):
    """The task of a fine-tuning YAML; its other sections are ignored."""

    model_config = {"extra": "ignore"}
    task: Task

    def load_splits(self) -> dict[str, list[Example]]:
        """Read the task's rows in the splits that fine-tuning uses."""
        return read_task(self.task, needs_validation=False)

    def load_training_texts(self) -> list[Example]:
        """Read the training rows, and the texts without a label."""
        splits, unlabeled = read_all(self.task, needs_validation=False)
        return splits["train"] + unlabeled

    def fingerprint_inputs(self) -> dict:
        """Return the inputs of a fingerprint of those rows."""
        return fingerprint_inputs(self.task)
