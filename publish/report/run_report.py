"""The report of one run, out/runs/NAME/report.html: from what the run wrote to a page that needs nothing else."""

from __future__ import annotations

import html
from statistics import median

from engine.config.loader import dump_config
from engine.files import read_json
from engine.html import page as framed, table
from engine.runs.run import Run
from publish.report.charts import STYLE
from publish.report.runs import flatten_log, format_number, metric_charts


def format_duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def result_sentence(log: list[dict[str, float]], metrics: dict) -> str:
    """What came of the run, in one line."""
    if "test" in metrics:
        said = ", ".join(
            f"{figure.replace('_', ' ')} {metrics['test'][figure]:.3f}" for figure in metrics["report_metrics"]
        )
        return f"{metrics['task']}: {said} on {metrics['test']['n']:,} test rows, with {metrics['num_train_examples']:,} labels"
    if not log:
        return "Nothing logged yet"
    first, *_, last = [entry for entry in log if "loss" in entry] * 2 or [{"loss": float("nan"), "step": 0}] * 2
    return f"Training loss {first['loss']:.3f} at step {first['step']:,}, {last['loss']:.3f} at step {last['step']:,}"


def results_table(metrics: dict) -> str:
    """The figures on the test rows, ours first, then what it is held against; nothing of a run that has none."""
    if "test" not in metrics:
        return ""
    rows = [
        (f"{metrics['encoder']}, fine-tuned", metrics["test"]),
        *((each["name"], each.get("test")) for each in metrics["baselines"].values()),
    ]
    cells = [
        [html.escape(name), *(f"{figures[figure]:.3f}" if figures else "–" for figure in metrics["report_metrics"])]
        for name, figures in rows
    ]
    return table(
        ["on the test rows", *(figure.replace("_", " ") for figure in metrics["report_metrics"])],
        cells,
        highlight_first=True,
    )


def training_table(log: list[dict[str, float]]) -> str:
    """Steps, tokens, time and speed."""
    if not log:
        return ""
    speeds = [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    cells = [
        f"{log[-1]['step']:,}",
        f"{log[-1].get('tokens', 0):,}",
        format_duration(log[-1].get("seconds", 0)),
        f"{median(speeds):,.0f}" if speeds else "–",
    ]
    return table(["", "steps", "tokens", "time", "tokens a second, median"], [["training", *cells]])


def evaluations_table(log: list[dict[str, float]]) -> str:
    """All evaluations as numbers."""
    found = [entry for entry in log if any("/" in name for name in entry)]
    names = list(dict.fromkeys(name for entry in found for name in entry if "/" in name))
    rows = [
        [f"{entry['step']:,}", *(format_number(entry[name]) if name in entry else "–" for name in names)]
        for entry in found
    ]
    heads = ["step", *(html.escape(name.partition("/")[2]) for name in names)]
    return f"<h2>Evaluations</h2>{table(heads, rows)}" if found else ""


def render_run_report(run: Run) -> str:
    """The page of a run that is finished, from its own folder."""
    return render_report(
        run.folder.name, run.read_log(), read_json(run.folder / "metrics.json"), dump_config(run.config)
    )


def render_report(run_name: str, log: list[dict], metrics: dict, config_yaml: str) -> str:
    """The page. log, metrics: what log.jsonl and metrics.json hold; config_yaml: config.yaml as it stands."""
    log = flatten_log(log)
    return framed(
        f"Run {run_name}",
        f"""<p class="sentence" id="sentence">{html.escape(result_sentence(log, metrics))}</p>
{results_table(metrics)}
<h2>Training</h2>
{training_table(log)}
{metric_charts({run_name: log})}
{evaluations_table(log)}
<h2>To repeat it</h2><details><summary>config.yaml</summary><pre>{html.escape(config_yaml)}</pre></details>""",
        STYLE,
    )
