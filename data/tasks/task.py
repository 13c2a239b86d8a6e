"""Labeled tasks: configuration, and rows read into training, validation and test examples.

`read_task(task)` returns {"train": [...], "validation": [...], "test": [...]}; `task.problem_type` decides the labels:

    single_label_classification   Example(("a text",), "positive")
    multi_label_classification    Example(("a text",), ("Humans", "Adult")), () where no label applies
    regression                    Example(("a text", "another"), 3.5)
    token_classification          Example(("Anna in Rome",), ("B-person", "O", "B-place")), words joined by spaces
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from data.sources.source import Source, display_name, fingerprint_inputs as source_inputs, get_text, iter_rows, to_text
from data.tasks import iob
from data.tasks.splits import Example, normalize, sample_examples, split_off, subtract  # noqa: F401 (re-exported)
from engine.config.schema import Section
from engine.errors import ConfigError, DataError, suggest

SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]


class Task(Section):
    """A labeled task: the sources of its rows and the columns with texts and labels."""

    name: str
    """Name of the task."""
    problem_type: ProblemType = "single_label_classification"
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
    label: str = "label"
    """Column of the label, list of labels, number or list of tags."""
    label_names: dict[str, str] = {}
    """Names of the labels in the file; none: the labels themselves. With several labels per row, others are ignored."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """Separator of multiple labels written as one string."""
    num_examples: PositiveInt | Literal["all"] = "all"
    """Training examples to use, stratified, by seed; all includes the validation rows if train.load_best=false."""
    shots: PositiveInt | None = None
    """Training examples of each class to use instead, by seed; all of a class with fewer."""
    deduplicate: bool = False
    """Whether to drop rows with a repeated text (ignoring whitespace and case) before splitting."""

    added_later: ClassVar[tuple[str, ...]] = ("label_separator",)


def parse_class(row: dict, task: Task, source_name: str, row_number: int) -> str:
    """Return the class of a row."""
    label, location = get_text(row, task.label, source_name).strip(), f"{source_name} row {row_number}"
    if isinstance(row[task.label], (list, tuple)):
        kinds = "multi_label_classification or token_classification"
        raise DataError(f"{location}: column {task.label!r} holds a list; set task.problem_type to {kinds}")
    if not label:
        raise DataError(f"{location}: no label in column {task.label!r}")
    if task.label_names and label not in task.label_names:
        raise DataError(
            f"{location}: label {label!r} has no name in task.label_names{suggest(label, task.label_names)}"
        )
    return task.label_names.get(label, label)


def parse_labels(row: dict, task: Task, source_name: str, row_number: int) -> tuple[str, ...]:
    """Return the distinct labels of a row, from a list or a separated string."""
    text, value = get_text(row, task.label, source_name), row[task.label]
    parts = value if isinstance(value, (list, tuple)) else text.split(task.label_separator)
    if any(part is None or isinstance(part, (list, tuple, dict)) for part in parts):
        raise DataError(f"{source_name} row {row_number}: {text} in column {task.label!r} is not a list of labels")
    labels = [label for label in (to_text(part).strip() for part in parts) if label]
    if task.label_names:
        labels = [task.label_names[label] for label in labels if label in task.label_names]
    return tuple(dict.fromkeys(labels))


def parse_number(row: dict, task: Task, source_name: str, row_number: int) -> float:
    """Return the number of a row; `label_names` may map words to numbers."""
    text = get_text(row, task.label, source_name).strip()
    try:
        value = float(task.label_names.get(text, text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{source_name} row {row_number}: {text!r} in column {task.label!r} is not a finite number")
    return value


def parse_tags(row: dict, task: Task, source_name: str, row_number: int) -> tuple[str, ...]:
    """Return the tags of a row's words, in IOB2."""
    return iob.read_tags(row, task.text, task.label, task.label_names, f"{source_name} row {row_number}")


LABEL_PARSERS: dict[ProblemType, Callable[[dict, Task, str, int], str | tuple[str, ...] | float]] = {
    "single_label_classification": parse_class,
    "multi_label_classification": parse_labels,
    "regression": parse_number,
    "token_classification": parse_tags,
}
"""Parser of a row's label: (row, task, source name for errors, row number) -> label."""


def read_examples(task: Task, source: Source) -> list[Example]:
    """Read the examples of one source. Raises DataError naming the row, column or label at fault."""
    columns = [task.text] if isinstance(task.text, str) else list(task.text)
    location, examples, seen = display_name(source), [], set()
    has_tags, parse_label = task.problem_type == "token_classification", LABEL_PARSERS[task.problem_type]
    if has_tags and not isinstance(task.text, str):
        raise ConfigError(f"task.text: token classification takes one column, not {' and '.join(columns)}")
    for number, row in enumerate(iter_rows(source), 1):
        if has_tags:
            texts = tuple(iob.join_words(row, column, f"{location} row {number}") for column in columns)
        else:
            texts = tuple(get_text(row, column, location) for column in columns)
        label = parse_label(row, task, location, number)
        for column, text in zip(columns, texts, strict=True):
            if not text.strip():
                raise DataError(f"{location} row {number}: no text in column {column!r}")
        text = normalize(texts)
        if not task.deduplicate or text not in seen:
            examples.append(Example(texts, label))
        seen.add(text)
    if not examples:
        raise DataError(f"{location}: no rows" + (f" where {source.where}" if source.where else ""))
    return examples


def read_task(task: Task) -> dict[str, list[Example]]:
    """Read and split all rows, whatever their order. Raises DataError when there is nothing to learn."""
    train = read_examples(task, task.train)
    num_rows = len(train)
    if task.test:
        test = read_examples(task, task.test)
        test = subtract(test, train) if task.test_holds_train else test
    else:
        test, train = split_off(train, task.test_fraction)
    if task.validation:
        validation = read_examples(task, task.validation)
    else:
        # The fraction refers to all rows, including those split off for testing.
        validation, train = split_off(train, task.validation_fraction * num_rows / max(1, len(train)))
    splits = {"train": train, "validation": validation, "test": test}
    check_labels(task, splits, num_rows)
    return splits


def check_labels(task: Task, splits: dict[str, list[Example]], num_rows: int) -> None:
    """Raise DataError when labels are constant, missing from the training rows, or a split is empty."""
    train, location = splits["train"], display_name(task.train)
    known = {name for example in train for name in example.label_names}
    if task.problem_type == "token_classification":
        if known <= {"O"}:
            raise DataError(f"{location}: every tag is O; there is no entity to learn")
        known = set(iob.expand_tags(known))  # B-X in the training rows implies I-X
    elif len({frozenset(example.label_names) or example.label for example in train}) < 2:
        raise DataError(f"{location}: {describe_constant_labels(task, train)}")
    if task.problem_type == "multi_label_classification":
        for name in task.label_names.values():
            if name not in known:
                raise DataError(f"{location}: no training row has the label {name!r} of task.label_names")
    for split in ("validation", "test"):
        if not splits[split]:
            raise DataError(f"{location}: {num_rows} rows are too few to split off {split} rows")
        unseen = Counter(name for example in splits[split] for name in example.label_names if name not in known)
        for label, count in unseen.items():
            raise DataError(
                f"{display_name(getattr(task, split) or task.train)}: label {label!r} ({count} {split} row"
                f"{'s' * (count > 1)}) does not occur in the training rows{suggest(label, known)}"
            )


def describe_constant_labels(task: Task, train: list[Example]) -> str:
    """Return the error message for labels that are all equal."""
    label = train[0].label if train else ""
    if task.problem_type == "single_label_classification":
        return f"every row has the label {label!r}; a classifier needs at least two classes"
    if label == ():
        return f"no row has a label in column {task.label!r}" + " that task.label_names lists" * bool(task.label_names)
    return f"every row has {label!r} in column {task.label!r}; there is nothing to learn"


def list_label_names(task: Task, splits: dict[str, list[Example]]) -> list[str]:
    """List label names by id: in `label_names` order, else sorted; tags as in `expand_tags`; for numbers the column."""
    present = {name for example in splits["train"] for name in example.label_names}
    if task.problem_type == "token_classification":
        return iob.expand_tags(present)
    if not present:
        return [task.label]
    return [name for name in dict.fromkeys(task.label_names.values()) if name in present] or sorted(present)


def fingerprint_inputs(task: Task) -> dict:
    """Return the inputs of a fingerprint of the task's rows, whatever the number of examples used."""
    sources = {split: getattr(task, split) for split in ("train", "validation", "test") if getattr(task, split)}
    inputs = task.model_dump(mode="json", exclude={"num_examples", "shots"})
    return inputs | {split: source_inputs(source) for split, source in sources.items()}


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
