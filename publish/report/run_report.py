"""Report of a run, out/runs/NAME/report.html: a self-contained HTML page."""

from collections.abc import Sequence

from engine.config.loader import dump_config
from engine.files import read_json
from engine.html import render
from engine.runs.run import Run
from publish.card.results import (
    describe_evaluation,
    describe_quality,
    describe_test_rows,
    find_problem_type,
    metric_title,
)
from publish.report.confusion import confusion_chart
from publish.report.runs import flatten_log, format_number, metric_charts, summarize_training


def result_sentence(log: list[dict[str, float]], metrics: dict) -> str:
    """Summarize the result of a run in one sentence."""
    if test := metrics.get("test"):
        scores = ", ".join(f"{metric_title(metric)} {test[metric]:.3f}" for metric in metrics["report_metrics"])
        noun = find_problem_type(metrics).rows_noun
        examples = f"{test['n']:,} test examples, trained on {metrics['num_train_examples']:,} {noun}"
        return f"{metrics['task']}: {scores} on {examples}"
    losses = [entry for entry in log if "loss" in entry]
    if not losses:
        return "No training loss logged yet" if log else "Nothing logged yet"
    first, last = losses[0], losses[-1]
    return f"Training loss {first['loss']:.3f} at step {first['step']:,}, {last['loss']:.3f} at step {last['step']:,}"


def results_table(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the test metrics of the run and its baselines; no rows for a run without any."""
    if "test" not in metrics:
        return [], []
    names, fitted = metrics["report_metrics"], find_problem_type(metrics).fitted
    results = [(f"{metrics['encoder']}, {fitted}", metrics["test"])]
    results += [(baseline["name"], baseline.get("test")) for baseline in metrics["baselines"].values()]
    rows = [
        [title, *(f"{test[name]:.3f}" if name in (test or {}) else "–" for name in names)] for title, test in results
    ]
    return ["test set", *map(metric_title, names)], rows


def evaluations_table(log: list[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of all evaluations."""
    entries = [entry for entry in log if any("/" in name for name in entry)]
    names = list(dict.fromkeys(name for entry in entries for name in entry if "/" in name))
    rows = [
        [f"{entry['step']:,}", *(format_number(entry[name]) if name in entry else "–" for name in names)]
        for entry in entries
    ]
    return ["step", *(name.partition("/")[2] for name in names)], rows


def render_run_report(run: Run, gallery: Sequence = ()) -> str:
    """Return the page of a finished run, read from its folder.

    gallery: (title, rows of {"image": data URL} or {"text": text}).
    """
    metrics = read_json(run.folder / "metrics.json")
    path = run.folder / "mistakes.json"
    mistakes = read_json(path)["mistakes"] if path.is_file() else []
    config_yaml, modality = dump_config(run.config), getattr(run.config, "task", run.config).modality
    return render_report(run.folder.name, run.read_log(), metrics, config_yaml, mistakes, gallery, modality)


def render_report(
    run_name: str,
    log: list[dict],
    metrics: dict,
    config_yaml: str,
    mistakes: Sequence = (),
    gallery: Sequence = (),
    modality: str = "text",
) -> str:
    """Return the page, from the contents of log.jsonl, metrics.json, config.yaml and mistakes.json."""
    log = flatten_log(log)
    return render(
        "publish/report/run_report.html.j2",
        title=f"Run {run_name}",
        sentence=result_sentence(log, metrics),
        results=results_table(metrics),
        notes=[
            *describe_test_rows(metrics),
            *describe_evaluation(metrics),
            *(f"{title}: {text}" for title, text in describe_quality(metrics)),
        ],
        training=summarize_training(log, modality),
        confusion=confusion_chart(metrics["confusion_matrix"]) if metrics.get("confusion_matrix") else "",
        mistakes=mistakes,
        charts=metric_charts({run_name: log}),
        evaluations=evaluations_table(log),
        config_yaml=config_yaml,
        gallery=gallery,
    )
