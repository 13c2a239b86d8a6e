"""The figures of a record as rows of a table with their intervals, and as the hub's `model-index`."""

from __future__ import annotations

import math
from typing import NamedTuple

from huggingface_hub import EvalResult

CLASSES = ("accuracy", "f1_macro")
"""What is shown of a run whose record does not say."""
TITLES = {"f1_macro": "macro F1", "f1_micro": "micro F1", "f1": "entity F1", "spearman": "Spearman",
          "pearson": "Pearson", "rmse": "RMSE", "loss": "masked-token loss", "retrieval": "other half found"}
HUB_NAMES = {"f1_macro": "f1", "f1_micro": "f1", "spearman": "spearmanr", "pearson": "pearsonr",
             "loss": "cross_entropy", "retrieval": "accuracy"}
"""Figures that the hub knows by another name."""
NORMAL = 1.959964  # of a standard normal, 95 % lie within so many standard deviations


class Figure(NamedTuple):
    """One figure, of what is published and of what it is held against."""

    name: str
    value: float
    interval: tuple[float, float] | None
    """95 %, over the rows it is measured on; None where their number alone does not tell."""
    rows: int
    baselines: dict[str, float]
    """By what they are."""


def title(figure: str) -> str:
    """A figure as a person calls it."""
    return TITLES.get(figure, figure.replace("_", " "))


def interval(figure: str, value: float, rows: int) -> tuple[float, float] | None:
    """95 % interval of a share (Wilson 1927) or a correlation (Fisher 1921; of ranks, Bonett and Wright 2000)."""
    if figure in ("accuracy", "retrieval") and rows:
        centre, scale = value + NORMAL**2 / (2 * rows), 1 + NORMAL**2 / rows
        spread = NORMAL * math.sqrt(value * (1 - value) / rows + (NORMAL / rows)**2 / 4)
        return (centre - spread) / scale, (centre + spread) / scale
    if figure in ("spearman", "pearson") and rows > 3 and abs(value) < 1:
        spread = NORMAL * math.sqrt((1 + (value**2 / 2 if figure == "spearman" else 0)) / (rows - 3))
        return math.tanh(math.atanh(value) - spread), math.tanh(math.atanh(value) + spread)
    return None


def figures(record: dict) -> list[Figure]:
    """What is told of a model on its test rows, or of an encoder on its held-out text."""
    if record["kind"] == "model":
        test, words = record["figures"]["test"], record.get("learns") == "tags"  # accuracy is then of words, not of rows
        others = {told["name"]: told["test"] for told in record["baselines"].values() if "test" in told}
        return [Figure(name, test[name], None if words else interval(name, test[name], test["n"]), test["n"],
                       {other: told[name] for other, told in others.items() if name in told})
                for name in record.get("shown", CLASSES)]
    held, rows = record["evaluation"], min(record["config"]["evaluation_rows"], record["documents"]["held_out"]["rows"])
    return [Figure(name, held[name], interval(name, held[name], count), count, {})
            for name, count in (("loss", rows), ("retrieval", held.get("among", 0))) if name in held]


def table(found: list[Figure], ours: str) -> list[str]:
    """Lines of Markdown: figures across, what is published and its baselines down."""
    def cell(value: float | None, bounds: tuple[float, float] | None = None) -> str:
        beside = f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        return "" if value is None else f"{value:.3f}{beside}"

    others = list(dict.fromkeys(name for figure in found for name in figure.baselines))
    rows = [[ours, *(cell(figure.value, figure.interval) for figure in found)],
            *([name, *(cell(figure.baselines.get(name)) for figure in found)] for name in others)]
    return ["| | " + " | ".join(title(figure.name) for figure in found) + " |", "|---|" + "--:|" * len(found),
            *("| " + " | ".join(row) + " |" for row in rows)]


def of_study(study: dict) -> list[str]:
    """The study's table in Markdown: labels across, ways down, means with 95 % intervals over seeds."""
    sizes = sorted({point["labels"] for points in study["curve"].values() for point in points})
    lines = [f"| {study['figure']}, % | " + " | ".join(f"{size:,} labels" for size in sizes) + " |",
             "|---|" + "--:|" * len(sizes)]
    for way, points in study["curve"].items():
        told = {point["labels"]: f"{100 * point['mean']:.1f}" + (
            f" ({100 * point['low']:.1f} to {100 * point['high']:.1f})" if point["low"] is not None else "")
            for point in points}
        lines.append(f"| {study['ways'][way]} | " + " | ".join(told.get(size, "") for size in sizes) + " |")
    return lines


def index(record: dict, task: str, study: dict | None) -> list[EvalResult]:
    """For `model-index`: each figure, with its interval, rows and baselines beside it as the metric's `args`."""
    model = record["kind"] == "model"
    name = record["config"]["task" if model else "corpus"]["name"]

    def result(task: str, data: str, split: str, figure: str, shown: str, value: float, told: dict) -> EvalResult:
        return EvalResult(task_type=task, dataset_type=data, dataset_name=data, dataset_split=split, metric_name=shown,
                          metric_type=HUB_NAMES.get(figure, figure), metric_value=round(value, 6),
                          metric_args={key: value for key, value in told.items() if value})

    found = [result(task, name, "test" if model else "held_out", figure.name, title(figure.name), figure.value, {
        "rows": figure.rows, "interval_95": rounded(figure.interval), "baselines": rounded(figure.baselines)})
        for figure in figures(record)]
    for point in study["curve"]["ours"] if study else []:
        others = {study["ways"][way]: other["mean"] for way, points in study["curve"].items() if way != "ours"
                  for other in points if other["labels"] == point["labels"]}
        bounds = (point["low"], point["high"]) if point["low"] is not None else None
        found.append(result(
            "text-classification", study["task"], "test", study["figure"],
            f"{title(study['figure'])} when fine-tuned with {point['labels']:,} labels", point["mean"],
            {"labels": point["labels"], "interval_95": rounded(bounds), "baselines": rounded(others)}))
    return found


def rounded(values: tuple | dict | None) -> list | dict | None:
    """Numbers to six places."""
    if isinstance(values, dict):
        return {key: round(value, 6) for key, value in values.items()}
    return values and [round(value, 6) for value in values]
