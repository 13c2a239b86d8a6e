"""Runs as they lie on disk: config.yaml, log.jsonl, metrics.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from engine.config.loader import read_yaml
from engine.errors import ConfigError, suggest
from engine.files import read_json
from engine.runs.run import flatten
from engine.runs.trackers import flatten_metrics
from publish.report.charts import Line, line_chart

CHART_ORDER = ("loss", "eval", "lr", "tokens_per_second")  # what is drawn first; evaluation with all its figures
NOT_CHARTED = ("step", "tokens", "seconds", "checkpoint_seconds")
METRIC_DESCRIPTIONS = {"lr": "learning rate", "tokens_per_second": "throughput", "grad_norm": "gradient's norm"}


class LoadedRun(NamedTuple):
    """What a run's folder tells; a run that is not finished has no metrics yet."""

    name: str
    config: dict[str, object]
    """By dotted keys."""
    log: list[dict[str, float]]
    """The log's lines by the keys that trackers are told, and the step."""
    metrics: dict


def load_run(folder: Path) -> LoadedRun:
    """A run. Raises ConfigError where there is none, naming the nearest."""
    if not (folder / "config.yaml").is_file():
        beside = [path.parent.name for path in folder.parent.glob("*/config.yaml")]
        raise ConfigError(f"{folder}: no run there (no config.yaml){suggest(folder.name, beside)}")
    path, metrics = folder / "log.jsonl", folder / "metrics.json"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return LoadedRun(
        folder.name,
        flatten(read_yaml(folder / "config.yaml")),
        flatten_log([json.loads(line) for line in lines if line.endswith("\n")]),  # the last may be half written
        read_json(metrics) if metrics.is_file() else {},
    )


def flatten_log(log: list[dict]) -> list[dict[str, float]]:
    """The lines of a log.jsonl, evaluations flat."""
    return [{"step": entry["step"], **flatten_metrics(entry)} for entry in log]


def metrics_to_chart(logs: list[list[dict[str, float]]]) -> list[str]:
    """The figures worth a curve, the most looked at first; a whole number that never changes is not: how many there were."""
    values: dict[str, set] = {}
    for name, value in ((name, value) for log in logs for entry in log for name, value in entry.items()):
        values.setdefault(name, set()).add(value)
    kept = [
        name
        for name, seen in values.items()
        if name not in NOT_CHARTED and not (len(seen) == 1 and isinstance(next(iter(seen)), int))
    ]
    order = {first: place for place, first in enumerate(CHART_ORDER)}
    return sorted(kept, key=lambda name: order.get(name.partition("/")[0], len(CHART_ORDER)))


def metric_charts(logs: dict[str, list[dict[str, float]]]) -> str:
    """An SVG for each figure, with a line for each run's log, by its name."""

    def lines(figure: str) -> list[Line]:
        return [
            Line(name, [(entry["step"], entry[figure]) for entry in log if figure in entry])
            for name, log in logs.items()
        ]

    return "".join(
        line_chart(
            figure + (f", {METRIC_DESCRIPTIONS[figure]}" if figure in METRIC_DESCRIPTIONS else ""), lines(figure)
        )
        for figure in metrics_to_chart(list(logs.values()))
    )


def format_number(value: float) -> str:
    """A figure as a person would write it."""
    return f"{value:,.0f}" if math.isfinite(value) and (abs(value) >= 1000 or value == int(value)) else f"{value:.4g}"
