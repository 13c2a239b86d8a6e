"""When to trust a prediction: what a model did on held-out rows, in a small file next to its weights, without text.

`confidence.safetensors` is written at the end of fine-tuning. The rows are those for validation or, if training used
none of their labels, the test rows. From them follow thresholds of the probability for a precision that is asked for,
the errors by which shares of classes are corrected, and how far a text may be from the training rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from data.sampling import take_evenly
from data.tasks import calibration
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from engine.errors import DataError, first_line

FILENAME = "confidence.safetensors"
CONFIDENCE = 0.9  # with which the precision asked for is reached, by the held-out rows of a class
MAX_DECISIONS, MAX_PROBABILITIES = 20_000, 2**18


@dataclass
class Confidence:
    """Results on held-out rows; a decision is a class of a text, one of its labels, or an entity in it."""

    split: str
    """validation or test."""
    names: list[str]
    """Names of what is decided: the classes, labels, or types of entities."""
    temperature: float
    """Divides the logits; 1 if it is in the last layer already."""
    decision_names: np.ndarray
    """Index in `names` of each decision, int32 (decisions,)."""
    decision_probabilities: np.ndarray
    """Its probability, float32 (decisions,)."""
    decision_correct: np.ndarray
    """Whether it is right, bool (decisions,)."""
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Of classes, if a row has one of several: float32 (rows, classes)."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Class ids of these rows, int32 (rows,)."""
    train_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Training rows of each name, int64 (names,)."""
    errors: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Absolute errors of predicted numbers, float32 (rows,)."""

    def check(self) -> None:
        """Raise ValueError if the values do not fit together, as those of a damaged file."""
        decided, rows, width = (len(self.decision_names),), (len(self.labels),), len(self.names)
        fits = {each.shape for each in (self.decision_probabilities, self.decision_correct)} == {decided}
        fits &= self.probabilities.shape in ((*rows, width), (0, 0)) and (self.probabilities.size > 0 or rows == (0,))
        fits &= self.train_counts.shape in ((0,), (width,)) and self.errors.ndim == 1
        for ids in (self.decision_names, self.labels):
            fits &= ids.ndim == 1 and ids.dtype.kind == "i" and bool(((ids >= 0) & (ids < width)).all())
        for values in (self.decision_probabilities, self.probabilities):
            fits &= values.dtype.kind == "f" and bool(np.isfinite(values).all())
        low, high = calibration.TEMPERATURE_BOUNDS
        if not fits or not low <= self.temperature <= high:
            raise ValueError("its values do not fit together")


def measure_confidence(
    problem_type: ProblemType,
    split: str,
    outputs: Sequence[np.ndarray],
    examples: Sequence[Example],
    label_names: list[str],
    config: dict,
    first_tokens: Sequence[np.ndarray] | None = None,
) -> Confidence:
    """Return the results of a model on held-out rows.

    outputs: for each row, as the problem type describes predictions. config: the contents of the model's config.json.
    """
    names = problem_type.card_labels(label_names)
    ids = {name: index for index, name in enumerate(names)}
    temperature, is_class = 1.0, problem_type.has_single_class
    labels = problem_type.encode_labels(list(examples), label_names) if is_class else np.zeros(0, np.int32)
    known = np.flatnonzero(labels < len(names))  # not of test rows with a class that no training row has
    if is_class and split == "test" and len(known):  # no temperature was fitted during training
        temperature = calibration.fit_temperature([outputs[row] for row in known], labels[known])
        outputs = list(calibration.apply_temperature(list(outputs), temperature))
    decided: list[tuple[int, float, bool]] = []
    for row, (output, example) in enumerate(zip(outputs, examples, strict=True)):
        if not np.ndim(output):
            continue
        starts = None if first_tokens is None else first_tokens[row]
        right = problem_type.list_true_keys(example.label)
        for decision in problem_type.list_decisions(np.asarray(output), label_names, config, starts):
            decided.append((ids[decision.label], decision.probability, decision.key in right))
    # Evenly, because rows are sorted by label.
    columns = list(zip(*take_evenly(decided, MAX_DECISIONS), strict=True)) or [(), (), ()]
    found = Confidence(
        split,
        names,
        temperature,
        np.array(columns[0], np.int32),
        np.array(columns[1], np.float32),
        np.array(columns[2], bool),
    )
    if is_class:
        rows = min(len(known), max(1, MAX_PROBABILITIES // len(names)))
        kept = known[np.linspace(0, len(known) - 1, rows).astype(int)]  # rows are sorted by label
        found.probabilities = np.array(outputs, np.float32)[kept]
        found.labels = labels[kept].astype(np.int32)
    elif problem_type.activation == "none":
        targets = np.ravel(problem_type.encode_labels(list(examples), label_names))
        if targets.shape == np.ravel(outputs).shape:
            found.errors = np.abs(np.ravel(outputs) - targets).astype(np.float32)
    return found


def count_labels(problem_type: ProblemType, examples: Sequence[Example], names: list[str]) -> np.ndarray:
    """Count the rows, labels or entities of each name, int64 (names,)."""
    counts = dict.fromkeys(names, 0)
    for example in examples:
        for name, _ in problem_type.list_true_keys(example.label):
            if name in counts:
                counts[name] += 1
    return np.array(list(counts.values()), np.int64)


def save_confidence(confidence: Confidence, path: Path, extra: dict[str, np.ndarray] | None = None) -> None:
    """Write the file. extra: further arrays by name, such as those of `data.tasks.novelty`."""
    from safetensors.numpy import save_file

    plain = {"split": confidence.split, "names": confidence.names, "temperature": confidence.temperature}
    arrays = {item.name: getattr(confidence, item.name) for item in fields(confidence) if item.name not in plain}
    arrays |= extra or {}
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(tensors, path, metadata={"confidence": json.dumps(plain)})


def load_confidence(folder: Path) -> tuple[Confidence | None, dict[str, np.ndarray]]:
    """Return the results in a model's folder, and the further arrays; (None, {}) without the file.

    Raises DataError for a damaged file.
    """
    from safetensors import safe_open

    path = folder / FILENAME
    if not path.is_file():
        return None, {}
    try:
        with safe_open(path, "numpy") as file:
            plain = json.loads(file.metadata()["confidence"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        own = {item.name: arrays.pop(item.name) for item in fields(Confidence) if item.name in arrays}
        names = [str(name) for name in plain["names"]]
        confidence = Confidence(str(plain["split"]), names, float(plain["temperature"]), **own)
        confidence.check()
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); remove it, or repeat the run") from None
    return confidence, arrays


def lower_bounds(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return a lower bound of precision for `correct` of `total` decisions, with CONFIDENCE (Clopper-Pearson)."""
    from scipy.stats import beta

    return np.where(correct > 0, beta.ppf(1 - CONFIDENCE, np.maximum(correct, 1e-9), total - correct + 1), 0.0)


def find_threshold(probabilities: np.ndarray, correct: np.ndarray, precision: float) -> float:
    """Return the lowest probability from which decisions, (decisions,), reach a precision; infinite if none do."""
    order = np.argsort(-probabilities, kind="stable")
    descending, hits = probabilities[order], np.cumsum(correct[order])
    is_last = np.append(descending[:-1] > descending[1:], True)[: len(descending)]
    bounds = lower_bounds(hits, np.arange(1, len(hits) + 1)) if len(hits) else np.zeros(0)
    enough = np.flatnonzero(is_last & (bounds >= precision))
    if not len(enough):
        return math.inf
    last = int(enough[-1])
    following = float(descending[last + 1]) if last + 1 < len(descending) else 0.0
    return (float(descending[last]) + following) / 2


def fit_thresholds(confidence: Confidence, precision: float) -> dict[str, float]:
    """Return the threshold of each name for a precision.

    Names with too few held-out decisions to show it, even if all were right, share one threshold.
    """
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(precision)) if precision < 1 else math.inf
    counts = np.bincount(confidence.decision_names, minlength=len(confidence.names))
    groups = np.where(counts >= needed, np.arange(len(counts)), -1)
    by_group = {}
    for group in np.unique(groups):
        chosen = groups[confidence.decision_names] == group
        chosen_values = confidence.decision_probabilities[chosen], confidence.decision_correct[chosen]
        by_group[int(group)] = find_threshold(*chosen_values, precision)
    return {name: by_group[int(group)] for name, group in zip(confidence.names, groups, strict=True)}
