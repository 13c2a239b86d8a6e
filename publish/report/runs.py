"""Runs read from their folders (config.yaml, log.jsonl, metrics.json), and the charts of their metrics."""

import math
from pathlib import Path
from statistics import median
from typing import NamedTuple

from markupsafe import Markup

from data.modalities import load_modality
from engine.charts import Line, line_chart
from engine.config.loader import read_yaml
from engine.config.schema import list_plugins
from engine.errors import ConfigError, suggest
from engine.files import read_json
from engine.runs.run import flatten, read_log
from engine.runs.trackers import flatten_metrics

CHART_ORDER = ("loss", "eval", "lr", "tokens_per_second")  # shown first; eval: all metrics of the evaluations
NOT_CHARTED = ("step", "tokens", "seconds", "checkpoint_seconds")
METRIC_DESCRIPTIONS = {"lr": "learning rate", "tokens_per_second": "throughput", "grad_norm": "gradient norm"}


class LoadedRun(NamedTuple):
    """Contents of a run's folder."""

    name: str
    config: dict[str, object]
    """By dotted keys."""
    log: list[dict[str, float]]
    """Lines of the log: the step, and metrics under the keys that trackers get."""
    metrics: dict
    """Contents of metrics.json; empty while the run is not finished."""


def load_run(folder: Path) -> LoadedRun:
    """Load a run. Raises ConfigError if there is none, with the nearest name."""
    if not (folder / "config.yaml").is_file():
        siblings = [path.parent.name for path in folder.parent.glob("*/config.yaml")]
        raise ConfigError(f"{folder}: not a run, it has no config.yaml{suggest(folder.name, siblings)}")
    log, metrics = read_log(folder / "log.jsonl"), folder / "metrics.json"
    config = flatten(read_yaml(folder / "config.yaml"))
    return LoadedRun(folder.name, config, flatten_log(log), read_json(metrics) if metrics.is_file() else {})


def flatten_log(log: list[dict]) -> list[dict[str, float]]:
    """Flatten the evaluations in the lines of a log."""
    return [{"step": entry["step"], **flatten_metrics(entry)} for entry in log]


def metrics_to_chart(logs: list[list[dict[str, float]]]) -> list[str]:
    """Return the metrics to chart, the most important first; without constant integers, which are counts of rows."""
    values: dict[str, set] = {}
    for name, value in (item for log in logs for entry in log for item in entry.items()):
        values.setdefault(name, set()).add(value)
    charted = [
        name
        for name, distinct in values.items()
        if name not in NOT_CHARTED and not (len(distinct) == 1 and isinstance(next(iter(distinct)), int))
    ]
    order = {name: index for index, name in enumerate(CHART_ORDER)}
    return sorted(charted, key=lambda name: order.get(name.partition("/")[0], len(CHART_ORDER)))


def metric_charts(logs: dict[str, list[dict[str, float]]]) -> list[Markup]:
    """Return an SVG for each metric, with a line for each run."""
    charts = []
    for metric in metrics_to_chart(list(logs.values())):
        lines = [
            Line(run, [(line["step"], line[metric]) for line in log if metric in line]) for run, log in logs.items()
        ]
        title = f"{metric}, {METRIC_DESCRIPTIONS[metric]}" if metric in METRIC_DESCRIPTIONS else metric
        charts.append(line_chart(title, lines))
    return [chart for chart in charts if chart]


def summarize_training(log: list[dict[str, float]], modality: str = "text") -> dict[str, str]:
    """Return the steps, tokens or images, time and median throughput of a run; empty before its first line."""
    unit = load_modality(modality if modality in list_plugins("data.modalities") else "text").unit
    speeds = [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    return (
        {
            "steps": f"{log[-1]['step']:,}",
            unit: f"{log[-1].get('tokens', 0):,}",
            "time": format_duration(log[-1].get("seconds", 0)),
            f"{unit}/s": f"{median(speeds):,.0f}" if speeds else "–",
        }
        if log
        else {}
    )


def format_duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def format_number(value: float) -> str:
    """Format a number for readers: without decimals if it is an integer or at least 1000, else with four digits."""
    return f"{value:,.0f}" if math.isfinite(value) and (abs(value) >= 1000 or value == int(value)) else f"{value:.4g}"
