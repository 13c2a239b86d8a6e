"""Write the results of a comparison: report.json, report.md and report.html, and the terminal's table."""

from pathlib import Path

from markupsafe import Markup

from engine import charts
from engine.files import write_json, write_text
from engine.html import render
from finetune.study.plot import describe_plot, draw_curves
from finetune.study.report import format_gain, format_mean
from finetune.study.statistics import format_points

HEADER = ["", "fine-tuned", "difference from the start", "linear", "difference from the start"]
NO_VALUE = "–"
TITLES = {"random": "random weights", "tfidf": "baseline", "onehot": "baseline"}
LINEAR_FLOORS = ("tfidf", "onehot")
MAX_LINES = len(charts.STROKES)


def name_row(row: dict) -> list[str]:
    """Return the first cell of a row: its name, and below it what it is."""
    return [TITLES.get(row["name"], row["name"]), row["network"]]


def list_notes(row: dict) -> list[str]:
    """Return why an objective failed, and the warnings of its training."""
    return [f"failed: {row['failed']}"] * bool(row["failed"]) + row["notes"]


def format_numbers(values: list[float]) -> str:
    """Return the mean of a number over pretrainings."""
    return f"{sum(values) / len(values):,.0f}" if values else NO_VALUE


def league_row(row: dict) -> list:
    """Return the cells of a row of the league table."""
    cells = []
    for score in row["scores"].values():
        cells.append(NO_VALUE if score["mean"] is None else f"{100 * score['mean']:.1f}")
        cells.append(format_gain(score["gain"]) if score["gain"] else NO_VALUE)
    return [
        [*name_row(row), *list_notes(row)],
        *cells,
        format_gain(row["floor_gain"]) if row["floor_gain"] else NO_VALUE,
        format_numbers(row["steps"]),
        format_numbers(row["cpu_seconds"]),
    ]


def task_table(summary: dict, task: dict, use: str) -> tuple[list, list[list]]:
    """Return (header, rows) of means by the number of labels."""
    curve = task["curves"][use]
    sizes = sorted({point["num_examples"] for points in curve.values() for point in points})
    rows = []
    for row in summary["rows"]:
        if row["name"] in curve:
            cells = {point["num_examples"]: format_mean(point) for point in curve[row["name"]]}
            rows.append([name_row(row), *(cells.get(size, NO_VALUE) for size in sizes)])
    return ["", *([f"{size:,}", "labels"] for size in sizes)], rows


def draw_task(summary: dict, task: dict) -> Markup:
    """Return a plot of fine-tuned accuracy by the number of labels, with the linear models without pretraining."""
    curve = {**task["curves"]["finetuned"]}
    curve |= {name: points for name, points in task["curves"]["probe"].items() if name in LINEAR_FLOORS}
    order = [row["name"] for row in summary["rows"] if row["name"] in curve][:MAX_LINES]
    titles = {
        row["name"]: row["network"] if row["name"] in LINEAR_FLOORS else name_row(row)[0] for row in summary["rows"]
    }
    title = f"{task['name']}: {describe_plot(summary['metric'], task['num_test_rows'])}"
    with charts.settings(title):
        return charts.to_svg(draw_curves(curve, titles, title, dict(enumerate(order))), title)


def league_header(summary: dict) -> list[str]:
    """Return the header of the league table."""
    return [*HEADER, f"difference from {summary['floor']}", "steps", "CPU seconds"]


def write_report(summary: dict, folder: Path) -> None:
    """Write report.json, report.md and report.html."""
    write_json(folder / "report.json", summary)
    league = [league_row(row) for row in summary["rows"]]
    tables = [[task_table(summary, task, use) for use in ("finetuned", "probe")] for task in summary["tasks"]]
    shared = {"title": f"Pretraining objectives compared: {summary['corpus']}", "summary": summary}
    shared["several"] = len(summary["reproduction"]["config"]["objectives"]) > 1
    plots = [draw_task(summary, task) for task in summary["tasks"]]
    page = render(
        "compare/report.html.j2", league=(league_header(summary), league), tables=tables, plots=plots, **shared
    )
    write_text(folder / "report.html", page)
    flat = [[flatten(*table) for table in each] for each in tables]
    write_text(
        folder / "report.md",
        render("compare/report.md.j2", league=flatten(league_header(summary), league), tables=flat, **shared),
    )


def flatten(header: list, rows: list[list]) -> tuple[list[str], list[list[str]]]:
    """Return a table with cells of one line, for Markdown."""
    return [join_lines(cell) for cell in header], [[join_lines(cell) for cell in row] for row in rows]


def join_lines(cell: str | list[str]) -> str:
    """Return a cell of several lines as one, for Markdown."""
    return cell if isinstance(cell, str) else f"{cell[0]} ({', '.join(cell[1:])})"


def format_summary(summary: dict, folder: Path) -> str:
    """Format the terminal's table and conclusion."""

    def difference(gain: dict | None) -> str:
        if not gain:
            return ""
        half = "" if gain["high"] is None else f" ± {100 * (gain['high'] - gain['difference']):.1f}"
        return f"{format_points(gain['difference'])}{half}"

    rows = []
    for row in summary["rows"]:
        cells = []
        for score in row["scores"].values():
            cells += [NO_VALUE if score["mean"] is None else f"{100 * score['mean']:.1f}", difference(score["gain"])]
        cells += [difference(row["floor_gain"]), format_numbers(row["cpu_seconds"])]
        rows.append([": ".join(name_row(row)), *cells])
    width = max(len(row[0]) for row in rows) + 2
    header = [f"{summary['metric']}, %", "fine-tuned", "from start", "linear", "from start", "from baseline", "CPU s"]
    lines = [f"  {name:<{width}}" + "".join(f"{cell:>14}" for cell in cells) for name, *cells in [header, *rows]]
    notes = [f"  {row['name']}: {line}" for row in summary["rows"] for line in list_notes(row)]
    return "\n".join(["", *lines, "", f"  {summary['sentence']}", *notes, "", f"  report  {folder / 'report.html'}"])
