"""Report of a run, out/runs/NAME/report.html: a self-contained HTML page."""

import html
from statistics import median

from engine.config.loader import dump_config
from engine.files import read_json
from engine.html import page as html_page, table
from engine.runs.run import Run
from publish.card.results import metric_title
from publish.report.charts import STYLE
from publish.report.runs import flatten_log, format_number, metric_charts


def format_duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def result_sentence(log: list[dict[str, float]], metrics: dict) -> str:
    """Summarize the result of a run in one sentence."""
    if test := metrics.get("test"):
        scores = ", ".join(f"{metric_title(metric)} {test[metric]:.3f}" for metric in metrics["report_metrics"])
        examples = f"{test['n']:,} test examples, trained on {metrics['num_train_examples']:,} labels"
        return f"{metrics['task']}: {scores} on {examples}"
    if not log:
        return "Nothing logged yet"
    losses = [entry for entry in log if "loss" in entry] or [{"loss": float("nan"), "step": 0}]
    first, last = losses[0], losses[-1]
    return f"Training loss {first['loss']:.3f} at step {first['step']:,}, {last['loss']:.3f} at step {last['step']:,}"


def results_table(metrics: dict) -> str:
    """Return a table of the test metrics of the run and its baselines; empty for a run without any."""
    if "test" not in metrics:
        return ""
    names = metrics["report_metrics"]
    rows = [(f"{metrics['encoder']}, fine-tuned", metrics["test"])]
    rows += [(baseline["name"], baseline.get("test")) for baseline in metrics["baselines"].values()]
    cells = [[html.escape(title), *(f"{test[name]:.3f}" if test else "–" for name in names)] for title, test in rows]
    return table(["test set", *map(metric_title, names)], cells, highlight_first=True)


def training_table(log: list[dict[str, float]]) -> str:
    """Return a table of the steps, tokens, time and throughput."""
    if not log:
        return ""
    last, speeds = log[-1], [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    cells = [f"{last['step']:,}", f"{last.get('tokens', 0):,}", format_duration(last.get("seconds", 0))]
    speed = f"{median(speeds):,.0f}" if speeds else "–"
    return table(["", "steps", "tokens", "time", "tokens per second (median)"], [["training", *cells, speed]])


def evaluations_table(log: list[dict[str, float]]) -> str:
    """Return a table of all evaluations."""
    entries = [entry for entry in log if any("/" in name for name in entry)]
    names = list(dict.fromkeys(name for entry in entries for name in entry if "/" in name))
    rows = [
        [f"{entry['step']:,}", *(format_number(entry[name]) if name in entry else "–" for name in names)]
        for entry in entries
    ]
    header = ["step", *(html.escape(name.partition("/")[2]) for name in names)]
    return f"<h2>Evaluations</h2>{table(header, rows)}" if entries else ""


def render_run_report(run: Run) -> str:
    """Return the page of a finished run, read from its folder."""
    metrics = read_json(run.folder / "metrics.json")
    return render_report(run.folder.name, run.read_log(), metrics, dump_config(run.config))


def render_report(run_name: str, log: list[dict], metrics: dict, config_yaml: str) -> str:
    """Return the page, from the contents of log.jsonl, metrics.json and config.yaml."""
    log = flatten_log(log)
    body = f"""<p class="sentence" id="sentence">{html.escape(result_sentence(log, metrics))}</p>
{results_table(metrics)}
<h2>Training</h2>
{training_table(log)}
{metric_charts({run_name: log})}
{evaluations_table(log)}
<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{html.escape(config_yaml)}</pre></details>"""
    return html_page(f"Run {run_name}", body, STYLE)
