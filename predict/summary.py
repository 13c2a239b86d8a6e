"""What a file contains: shares of labels, drift from the training rows, and the most doubtful rows."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from data.sampling import take_evenly
from data.tasks.novelty import EXPECTED_SHARE
from data.tasks.prevalence import estimate_shares
from engine.html import one_line, shorten
from predict.config import Predict
from predict.predictions import Prediction
from predict.rows import Item

if TYPE_CHECKING:
    from data.classifier import Classifier

MAX_PART_PROBABILITIES = 2**14  # of a part, kept to correct the shares by
MAX_TEXT_CHARS = 300
MAX_PROBABILITIES = 10**7


class PartStatistics:
    """Statistics of the rows of a part. first_row: number of rows before it."""

    def __init__(self, first_row: int, num_doubtful: int):
        self.number, self.num_doubtful = first_row, num_doubtful
        self.counts: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.doubtful: list[tuple[float, int, dict]] = []
        self.unlike: list[dict] = []
        self.outputs: list[np.ndarray] = []
        self.numbers: list[float] = []

    def add(self, item: Item, prediction: Prediction) -> None:
        """Count a row."""
        self.number += 1
        self.totals["rows"] += 1
        if item.is_empty:
            self.totals["empty"] += 1
            return
        self.counts.update(prediction.names)
        self.totals["unsure"] += bool(prediction.unsure)
        self.totals["unlike"] += bool(prediction.unlike)
        if prediction.outputs is not None:
            self.outputs.append(prediction.outputs)
        if isinstance(prediction.label, float):
            self.numbers.append(prediction.label)
            return
        if len(self.doubtful) < self.num_doubtful or (prediction.doubt, -self.number) > self.doubtful[0][:2]:
            entry = (prediction.doubt, -self.number, self.describe(item, prediction))
            push = heapq.heappush if len(self.doubtful) < self.num_doubtful else heapq.heappushpop
            push(self.doubtful, entry)

    def describe(self, item: Item, prediction: Prediction) -> dict:
        """Return a row as it is listed."""
        shown = shorten(" | ".join(item.example.texts), MAX_TEXT_CHARS)
        return {
            "row": self.number,
            "text": shown.encode("utf-8", "replace").decode(),
            "label": prediction.label,
            "probability": prediction.probability,
            "score": prediction.score,
            "unlike": prediction.unlike,
            "why": prediction.why,
        }

    def to_json(self) -> dict:
        """Return what the summary of all parts needs."""
        outputs: list = []
        if self.outputs:
            count = max(1, MAX_PART_PROBABILITIES // len(self.outputs[0]))
            kept = np.linspace(0, len(self.outputs) - 1, min(count, len(self.outputs))).astype(int)
            outputs = [[round(float(value), 5) for value in self.outputs[index]] for index in kept]
        return {
            "counts": dict(self.counts),
            "totals": dict(self.totals),
            "doubtful": sorted(self.doubtful, key=lambda entry: (-entry[0], -entry[1])),
            "outputs": outputs,
            "numbers": [len(self.numbers), sum(self.numbers), sum(number**2 for number in self.numbers)],
        }


@dataclass
class Summary:
    """The summary of a file."""

    rows: int = 0
    empty: int = 0
    unsure: int | None = None
    unlike: int | None = None
    shares: list[dict[str, Any]] = field(default_factory=list)
    """{"label", "count", "share"} and, where it can be corrected, {"corrected", "low", "high", "training"}."""
    doubtful: list[dict] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    false_alarms: float | None = None
    """Of a detector: the share of normal rows that are called anomalous."""
    precision: float | None = None
    model: str = ""
    fingerprint: str = ""
    rows_path: str = ""
    page_path: str = ""
    missing: str = "without text"
    """What the empty rows are."""

    @classmethod
    def from_json(cls, content: dict) -> Summary:
        """Return a summary that was written."""
        return cls(**{item.name: content[item.name] for item in fields(cls) if item.name in content})

    def to_json(self) -> dict:
        """Return the summary as JSON."""
        return asdict(self)

    @classmethod
    def from_parts(cls, parts: Iterable[dict], classifier: Classifier, config: Predict) -> Summary:
        """Return the summary of the rows of all parts."""
        counts: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        doubtful: list = []
        outputs: list[tuple[np.ndarray, int]] = []
        numbers = np.zeros(3)
        for part in parts:
            counts.update(part["counts"])
            totals.update(part["totals"])
            doubtful = sorted([*doubtful, *part["doubtful"]], key=lambda entry: (-entry[0], -entry[1]))
            doubtful = doubtful[: config.num_doubtful]
            num_predicted = part["totals"].get("rows", 0) - part["totals"].get("empty", 0)
            outputs.append((np.array(part["outputs"], np.float32), num_predicted))
            numbers += part["numbers"]
        summary = cls(totals["rows"], totals["empty"], precision=config.precision, model=config.model)
        summary.unsure = totals["unsure"] if config.precision is not None else None
        summary.unlike = totals["unlike"] if classifier.novelty is not None else None
        summary.false_alarms = float(classifier.detector.false_alarms[0]) if classifier.detector else None
        if classifier.modality.name != "text":
            summary.missing = "broken"
        summary.doubtful = [entry[2] for entry in doubtful]
        if numbers[0]:
            mean = numbers[1] / numbers[0]
            summary.numbers = {"mean": mean, "std": max(0.0, numbers[2] / numbers[0] - mean**2) ** 0.5}
        summary.shares = describe_shares(classifier, counts, totals["rows"] - totals["empty"], outputs)
        return summary

    def describe(self, seconds: float) -> list[str]:
        """Return the lines to print."""
        lines = [
            f"  {self.rows:,} rows in {seconds:,.0f} s" + f", {self.empty:,} of them {self.missing}" * bool(self.empty)
        ]
        for share in self.shares[:20]:
            line = f"  {one_line(share['label']):<24} {share['count']:>10,} {100 * share['share']:6.1f}%"
            if "corrected" in share:
                low, high = 100 * share["low"], 100 * share["high"]
                line += f", corrected {100 * share['corrected']:.1f}% ({low:.1f} to {high:.1f})"
            lines.append(line)
        lines += self.describe_doubt()
        return [*lines, f"  rows    {self.rows_path}", f"  report  {self.page_path}"]

    def describe_doubt(self) -> list[str]:
        """Return sentences on the rows that are not to be trusted."""
        count, lines = max(1, self.rows - self.empty), []
        if self.numbers:
            lines.append(f"  mean {self.numbers['mean']:.4g}, standard deviation {self.numbers['std']:.4g}")
        if self.false_alarms is not None:
            lines.append(f"  anomalous: expected of normal rows are at most {self.false_alarms:.1%}")
        if self.unsure is not None:
            lines.append(
                f"  unsure at a precision of {self.precision:g}: {self.unsure:,} rows, {self.unsure / count:.1%}"
            )
        if self.unlike is not None:
            expected = f"{EXPECTED_SHARE:.0%} are expected among rows like those"
            lines.append(f"  unlike the training rows: {self.unlike:,} rows, {self.unlike / count:.1%}; {expected}")
        return lines


def sample_outputs(parts: list[tuple[np.ndarray, int]], limit: int) -> np.ndarray:
    """Return outputs of all parts, of each the same fraction of its rows, and about `limit` at most.

    parts: the outputs that were kept of a part, (kept, labels), and the number of its rows that had one.
    """
    parts = [(outputs, rows) for outputs, rows in parts if len(outputs)]
    fraction = min(limit / sum(rows for _, rows in parts), *(len(outputs) / rows for outputs, rows in parts))
    return np.concatenate(
        [outputs[take_evenly(range(len(outputs)), max(1, round(fraction * rows)))] for outputs, rows in parts]
    )


def describe_shares(
    classifier: Classifier, counts: Counter, num_rows: int, outputs: list[tuple[np.ndarray, int]]
) -> list[dict]:
    """Return the share of each label, the largest first, corrected where the held-out rows allow it.

    Shares of classes and labels are of the rows, and those of types of entities of all entities.

    outputs: as for `sample_outputs`.
    """
    confidence = classifier.confidence
    has_names = classifier.problem_type.activation != "none" or classifier.detector
    names = classifier.problem_type.card_labels(classifier.names) if has_names else []
    total = max(1, counts.total() if classifier.problem_type.labels_words else num_rows)
    shares = [{"label": name, "count": counts[name], "share": counts[name] / total} for name in names]
    if confidence is not None and len(confidence.labels) and num_rows:
        sample = sample_outputs(outputs, MAX_PROBABILITIES // len(names))
        corrected, low, high = estimate_shares(sample, confidence.probabilities, confidence.labels)
        training = confidence.train_counts / max(1, confidence.train_counts.sum())
        for index, share in enumerate(shares):
            share |= {"corrected": float(corrected[index]), "low": float(low[index]), "high": float(high[index])}
            if len(training) == len(shares):
                share["training"] = float(training[index])
    return sorted(shares, key=lambda share: -share["count"])
