"""What is printed at the end of a run: the scores, then the output files."""

from collections.abc import Sequence

from engine.files import read_json
from engine.runs.run import Run
from publish.card.card import DEFAULT_METRICS, describe_evaluation, describe_test_rows, find_problem_type, metric_title


def format_table(rows: list[tuple[str, dict | None]], metric_names: Sequence[str] = DEFAULT_METRICS) -> list[str]:
    """Return the lines of a table of names and their test metrics."""
    name_width = max(len(name) for name, _ in rows) + 4
    widths = {metric: max(8, len(metric_title(metric))) for metric in metric_names}
    titles = "   ".join(f"{metric_title(metric):>{width}}" for metric, width in widths.items())
    lines = [f"  {'on the test set':<{name_width}}{titles}"]
    for name, metrics in rows:
        known = metrics or {}
        cells = (f"{known[name]:>{w}.3f}" if name in known else f"{'-':>{w}}" for name, w in widths.items())
        lines.append(f"  {name:<{name_width}}{'   '.join(cells)}")
    return lines


def metric_rows(metrics: dict) -> list[tuple[str, dict | None]]:
    """Return the rows of the table, the fine-tuned encoder first."""
    baselines = reversed(metrics["baselines"].values())
    rows = [(baseline["name"], baseline.get("test")) for baseline in baselines]
    fitted = find_problem_type(metrics).fitted
    return [(f"{metrics['encoder']}, {fitted}", metrics["test"]), *rows]


def format_scores(run: Run) -> str:
    """Return the numbers of rows and the table with the baselines."""
    metrics = read_json(run.folder / "metrics.json")
    problem_type, num_available = find_problem_type(metrics), metrics["num_available_examples"]
    lines = [
        "",
        f"  {metrics['task']}: {metrics['num_train_examples']:,} {problem_type.rows_noun} of {num_available:,},"
        f" {metrics['test']['n']:,} test rows",
        *(f"  {line}" for line in describe_test_rows(metrics) + describe_evaluation(metrics)),
        "",
        *format_table(metric_rows(metrics), metrics.get("report_metrics", DEFAULT_METRICS)),
    ]
    return "\n".join(lines)


def format_outputs(run: Run) -> str:
    """Return the paths of the output files and an example command."""
    metrics, folder = read_json(run.folder / "metrics.json"), run.folder
    lines = ["", f"  model   {folder / 'model'}"]
    if (folder / "report.html").is_file():
        lines.append(f"  report  {folder / 'report.html'}")
    if metrics.get("test_rows", {}).get("random") and find_problem_type(metrics).has_single_class:  # labeled in rounds
        lines.append(f"  label   make explore MODEL={folder}  chooses the rows to label next")
    if (folder / "adapter").is_dir():
        lines.append(f"  adapter {folder / 'adapter'} on {folder / 'base'}, for peft")
    return "\n".join([*lines, f"  next    make predict MODEL={folder} FILE=FILE"])
