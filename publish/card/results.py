"""The figures of a record as rows of a table with their intervals, and as the hub's `model-index`."""

from __future__ import annotations

import math
from typing import NamedTuple

from huggingface_hub import EvalResult

DEFAULT_METRICS = ("accuracy", "f1_macro")
"""What is shown of a run whose record does not say."""
METRIC_TITLES = {
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1": "entity F1",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "rmse": "RMSE",
    "loss": "masked-token loss",
    "retrieval_acc@1": "other half found",
}
HUB_METRIC_NAMES = {
    "f1_macro": "f1",
    "f1_micro": "f1",
    "spearman": "spearmanr",
    "pearson": "pearsonr",
    "loss": "cross_entropy",
    "retrieval_acc@1": "accuracy",
}
"""Figures that the hub knows by another name."""
Z_95 = 1.959964  # of a standard normal, 95 % lie within so many standard deviations


class Metric(NamedTuple):
    """One figure, of what is published and of what it is held against."""

    name: str
    value: float
    confidence_interval: tuple[float, float] | None
    """95 %, over the rows it is measured on; None where their number alone does not tell."""
    num_rows: int
    baselines: dict[str, float]
    """By what they are."""


def metric_title(metric: str) -> str:
    """A figure as a person calls it."""
    return METRIC_TITLES.get(metric, metric.replace("_", " "))


def confidence_interval(metric: str, value: float, num_rows: int) -> tuple[float, float] | None:
    """95 % interval of a share (Wilson 1927) or a correlation (Fisher 1921; of ranks, Bonett and Wright 2000)."""
    if metric in ("accuracy", "retrieval_acc@1") and num_rows:
        centre, scale = value + Z_95**2 / (2 * num_rows), 1 + Z_95**2 / num_rows
        spread = Z_95 * math.sqrt(value * (1 - value) / num_rows + (Z_95 / num_rows) ** 2 / 4)
        return (centre - spread) / scale, (centre + spread) / scale
    if metric in ("spearman", "pearson") and num_rows > 3 and abs(value) < 1:
        spread = Z_95 * math.sqrt((1 + (value**2 / 2 if metric == "spearman" else 0)) / (num_rows - 3))
        return math.tanh(math.atanh(value) - spread), math.tanh(math.atanh(value) + spread)
    return None


def collect_metrics(record: dict) -> list[Metric]:
    """What is told of a model on its test rows, or of an encoder on its held-out text."""
    if record["kind"] == "model":
        test, words = (
            record["metrics"]["test"],
            record.get("problem_type") == "token_classification",
        )  # accuracy is then of words, not of rows
        others = {told["name"]: told["test"] for told in record["baselines"].values() if "test" in told}
        return [
            Metric(
                name,
                test[name],
                None if words else confidence_interval(name, test[name], test["n"]),
                test["n"],
                {other: told[name] for other, told in others.items() if name in told},
            )
            for name in record.get("report_metrics", DEFAULT_METRICS)
        ]
    held, rows = record["eval"], min(record["config"]["eval_rows"], record["documents"]["held_out"]["rows"])
    return [
        Metric(name, held[name], confidence_interval(name, held[name], count), count, {})
        for name, count in (("loss", rows), ("retrieval_acc@1", held.get("num_candidates", 0)))
        if name in held
    ]


def metrics_table(metrics: list[Metric], row_name: str) -> list[str]:
    """Lines of Markdown: figures across, what is published and its baselines down."""

    def cell(value: float | None, bounds: tuple[float, float] | None = None) -> str:
        beside = f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        return "" if value is None else f"{value:.3f}{beside}"

    others = list(dict.fromkeys(name for figure in metrics for name in figure.baselines))
    rows = [
        [row_name, *(cell(figure.value, figure.confidence_interval) for figure in metrics)],
        *([name, *(cell(figure.baselines.get(name)) for figure in metrics)] for name in others),
    ]
    return [
        "| | " + " | ".join(metric_title(figure.name) for figure in metrics) + " |",
        "|---|" + "--:|" * len(metrics),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def study_table(study: dict) -> list[str]:
    """The study's table in Markdown: labels across, ways down, means with 95 % intervals over seeds."""
    sizes = sorted({point["labels"] for points in study["curve"].values() for point in points})
    lines = [
        f"| {study['figure']}, % | " + " | ".join(f"{size:,} labels" for size in sizes) + " |",
        "|---|" + "--:|" * len(sizes),
    ]
    for way, points in study["curve"].items():
        told = {
            point["labels"]: f"{100 * point['mean']:.1f}"
            + (f" ({100 * point['low']:.1f} to {100 * point['high']:.1f})" if point["low"] is not None else "")
            for point in points
        }
        lines.append(f"| {study['ways'][way]} | " + " | ".join(told.get(size, "") for size in sizes) + " |")
    return lines


def eval_results(record: dict, task_type: str, study: dict | None) -> list[EvalResult]:
    """For `model-index`: each figure, with its interval, rows and baselines beside it as the metric's `args`."""
    model = record["kind"] == "model"
    name = record["config"]["task" if model else "corpus"]["name"]

    def result(task: str, data: str, split: str, figure: str, shown: str, value: float, told: dict) -> EvalResult:
        return EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            dataset_split=split,
            metric_name=shown,
            metric_type=HUB_METRIC_NAMES.get(figure, figure),
            metric_value=round(value, 6),
            metric_args={key: value for key, value in told.items() if value},
        )

    found = [
        result(
            task_type,
            name,
            "test" if model else "held_out",
            figure.name,
            metric_title(figure.name),
            figure.value,
            {
                "rows": figure.num_rows,
                "interval_95": round_values(figure.confidence_interval),
                "baselines": round_values(figure.baselines),
            },
        )
        for figure in collect_metrics(record)
    ]
    for point in study["curve"]["ours"] if study else []:
        others = {
            study["ways"][way]: other["mean"]
            for way, points in study["curve"].items()
            if way != "ours"
            for other in points
            if other["labels"] == point["labels"]
        }
        bounds = (point["low"], point["high"]) if point["low"] is not None else None
        found.append(
            result(
                "text-classification",
                study["task"],
                "test",
                study["figure"],
                f"{metric_title(study['figure'])} when fine-tuned with {point['labels']:,} labels",
                point["mean"],
                {"labels": point["labels"], "interval_95": round_values(bounds), "baselines": round_values(others)},
            )
        )
    return found


def round_values(values: tuple | dict | None) -> list | dict | None:
    """Numbers to six places."""
    if isinstance(values, dict):
        return {key: round(value, 6) for key, value in values.items()}
    return values and [round(value, 6) for value in values]
