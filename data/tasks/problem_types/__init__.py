"""Problem types, one file each: what depends on the kind of label. `task.problem_type=X` selects the file X.py.

A file defines `PROBLEM_TYPE`, an instance of a subclass of `ProblemType`. Nothing that takes long to import is imported
at its top level, because the command line reads it.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from data.sources.values import MISSING, find_value, get_text, is_empty
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
EMPTY_LIST = re.compile(r"""\[\s*(""|'')?\s*\]""")  # as a csv has a list without a label


class Decision(NamedTuple):
    """One label that a model gives an input."""

    label: str
    """The class, or the type of an entity."""
    words: tuple[int, int] | None
    """First word of an entity, and the one after its last; None for a label of the whole input."""
    probability: float

    @property
    def key(self) -> tuple[str, tuple[int, int] | None]:
        """What makes it right: the label, and the words of an entity."""
        return self.label, self.words


class ProblemType:
    """One kind of label: how it is read, learned, measured, described and exported.

    A file's class adds these methods; labels of words have a list of targets and predictions, an array for each text:

    parse_label(row, task, location)                   label of a row; raises DataError naming the row and column
    encode_labels(examples, label_names)               training targets, (inputs, ...), or int64 (words,) for each text
    loss(logits, labels, **options)                    loss of logits, (inputs, outputs); options: of torch's function
    quick_metrics(predictions, labels)                 cheap metrics for evaluations during training, and "n"
    fit_linear_model(c, features, labels, label_names)   function from features to predictions; c as in sklearn
    decode_outputs(outputs, config, word_starts=None)  prediction for each input from a model's raw outputs; config: the
                                                       contents of config.json; word_starts: first token of each word
    score_predictions(predictions, labels)             the metric that `export_metric` names, of decoded predictions
    """

    name: str
    default_head: ClassVar[str] = "standard"
    """Name of the head used if none is set."""
    labels_words: ClassVar[bool] = False
    """Whether each word of a text has a label, instead of each text."""
    has_single_class: ClassVar[bool] = False
    """Whether a label is one of several classes."""
    is_detector: ClassVar[bool] = False
    """Whether a frozen encoder compares inputs with rows of one class (`finetune.detector`), and nothing is trained."""
    has_open_labels: ClassVar[bool] = False
    """Whether validation and test rows may have labels that no training row has."""
    transformers_problem_type: ClassVar[str | None] = None
    """`problem_type` in the model's config.json: one that transformers knows, or None."""
    activation: ClassVar[Literal["softmax", "sigmoid", "none"]]
    """Function that plain transformers applies to the logits."""
    metric_for_best: ClassVar[str]
    """The metric of `quick_metrics` to maximize."""
    report_metrics: ClassVar[tuple[str, ...]]
    """Metrics of `compute_metrics` to print."""
    linear_baseline: ClassVar[str] = ""
    """Name of the model of `fit_linear_model`; empty: it has none."""
    tunes_linear_model: ClassVar[bool] = True
    """Whether it has a regularization strength to choose on the validation set."""
    fitted: ClassVar[str] = "fine-tuned"
    """What was done with the encoder, in a table."""
    rows_noun: ClassVar[str] = "labels"
    """What the training rows are counted as."""
    usage_template: ClassVar[str] = ""
    """Template of the model card's example; empty: transformers' pipeline."""
    export_metric: ClassVar[str]
    """Name of the metric of `score_predictions`."""
    card_description: ClassVar[str]
    """Sentence of the model card, with {labels}, and {input} for one input such as `text`."""
    card_limitation: ClassVar[str]
    """Sentence of the model card, with {inputs} for several inputs."""
    pipeline_options: ClassVar[str] = ""
    """Further arguments of transformers' pipeline, each after a comma."""
    example_title: ClassVar[str]
    """Title of the example script next to an exported graph, with {inputs}."""
    example_code: ClassVar[str]
    """End of that script: prints the predictions from `outputs`, `encodings` and `config`; empty: there is none."""

    @property
    def recorded_output(self) -> str:
        """What of a model's output is recorded to verify copies, as `engine.models.load_check` names it."""
        return "anomaly_score" if self.is_detector else self.activation

    def configure(self, head: Section) -> ProblemType:
        """Return the problem type with the settings of a head that its metrics depend on."""
        return self

    def prepare_row(self, row: dict, task: Section, location: str) -> dict:
        """Return a row in the form that `read_texts` and `parse_label` read."""
        return row

    def read_texts(self, row: dict, columns: list[str], location: str) -> tuple[str, ...]:
        """Return the texts of a row. Raises DataError naming the row and column at fault."""
        return tuple(get_text(row, column, location) for column in columns)

    def lacks_label(self, row: dict, column: str | list[str]) -> bool:
        """Return whether a row has no label: an empty cell, unless that is a label too."""
        return False

    def known_labels(self, task: Section, train: list[Example], location: str) -> set[str]:
        """Return the labels that other splits may have. Raises DataError if there is nothing to learn."""
        if len({frozenset(example.label_names) or example.label for example in train}) < 2:
            raise DataError(f"{location}: {self.describe_constant_label(task, train[0].label if train else '')}")
        return {name for example in train for name in example.label_names}

    def describe_constant_label(self, task: Section, label: str | tuple[str, ...] | float) -> str:
        """Return the error message for training rows that all have this label."""
        return f"every row has {label!r} in column {task.label!r}; there is nothing to learn"

    def list_label_names(self, task: Section, present: set[str]) -> list[str]:
        """List the names of the model's outputs. present: the labels of the training rows."""
        names = dict.fromkeys([*task.classes, *task.label_names.values()])
        return [name for name in names if name in present] or sort_labels(present)

    def activate(self, logits: Tensor) -> Tensor:
        """Apply the activation to logits, (..., outputs)."""
        if self.activation == "none":
            return logits
        return logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()

    def compute_metrics(
        self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str], params: dict
    ) -> dict[str, float]:
        """Compute all metrics of postprocessed predictions."""
        return self.quick_metrics(predictions, labels)

    def list_report_metrics(self, metrics: dict) -> tuple[str, ...]:
        """List the metrics to print, of those on the test set."""
        return self.report_metrics

    def fit_postprocess(self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
        """Fit parameters, such as thresholds, on the validation set; they are saved in the model's config.json."""
        return {}

    def apply_postprocess(self, predictions: list[np.ndarray], params: dict) -> list[np.ndarray] | np.ndarray:
        """Return the predictions of the model with these parameters."""
        return predictions

    def test_details(self, predictions: list[np.ndarray], labels: np.ndarray, label_names: list[str]) -> dict:
        """Return further results on the test set, for metrics.json."""
        return {}

    def measure_own_baselines(self, splits: dict[str, list[Example]]) -> dict[str, dict]:
        """Return name and metrics by split of baselines that need no features of the inputs."""
        return {}

    def list_decisions(
        self, output: np.ndarray, names: list[str], config: dict, first_tokens: np.ndarray | None = None
    ) -> list[Decision]:
        """Return what a model decides for one input, from its probabilities; none for a number.

        names: of the outputs. config: the contents of config.json. first_tokens: of each word, -1 for none.
        """
        return []

    def list_thresholds(self, config: dict) -> np.ndarray:
        """Return the probability of each output from which a label is given; config: the contents of config.json."""
        raise NotImplementedError(f"{self.name} has no thresholds")

    def list_true_keys(self, label: str | tuple[str, ...] | float) -> set[tuple]:
        """Return the keys of the decisions that are right for an example with this label."""
        return {(label, None)}

    def card_labels(self, label_names: list[str]) -> list[str]:
        """Return the labels to list in the model card."""
        return label_names

    def agreement(self, predictions: list, reference: list) -> float | None:
        """Compute the fraction of equal predictions; None for predictions that are never exactly equal."""
        return sum(one == other for one, other in zip(predictions, reference, strict=True)) / len(predictions)


def has_empty_cell(row: dict, column: str) -> bool:
    """Return whether a row has nothing in a column, or an empty list as text; not for a row without the column."""
    value = find_value(row, column)
    is_empty_list = isinstance(value, str) and EMPTY_LIST.fullmatch(value.strip()) is not None
    return value is not MISSING and (is_empty_list or is_empty(value))


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels, as numbers if all are whole numbers: most programs take the position of a class for its number."""
    is_number = all(WHOLE_NUMBER.fullmatch(label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label) if is_number else label)


def output_names(config: dict) -> list[str]:
    """List the names of a model's outputs from the contents of its config.json."""
    return [name for _, name in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]


def check_decoding(folder: Path, config: dict) -> None:
    """Raise DataError if what `decode_outputs` reads of a model's config.json holds anything but finite numbers."""
    for key, needed in {"label_scale": {"mean", "std"}, "thresholds": set()}.items():
        numbers = config.get(key) or {}
        values = numbers.values() if isinstance(numbers, dict) else [None]
        is_number = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        if not is_number or numbers and not needed <= numbers.keys():
            raise DataError(f"{folder}: {key} in config.json holds no numbers by name; it is {str(numbers)[:80]}")


def load_problem_type(name: str) -> ProblemType:
    """Return the problem type in the file of this name."""
    return importlib.import_module(f"data.tasks.problem_types.{name}").PROBLEM_TYPE
