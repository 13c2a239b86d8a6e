"""Render study.json as a self-contained HTML page and as the terminal's table."""

from collections.abc import Callable
from pathlib import Path

from data.contamination import describe_contamination
from engine.charts import inline_svg
from engine.html import render
from finetune.study.statistics import format_points
from publish.card.card import describe_test_rows

MAX_TEXT_CHARS = 400


def format_mean(point: dict) -> list[str]:
    """Return a mean and its interval, the lines of a table's cell; no accuracy is below 0 or above 100%."""
    interval = "deterministic" if point["deterministic"] else "one seed"
    if point["low"] is not None:
        interval = f"{100 * max(0, point['low']):.1f} to {100 * min(1, point['high']):.1f}"
    return [f"{100 * point['mean']:.1f}", interval]


def format_gain(gain: dict) -> list[str]:
    """Return a difference and its interval, the lines of a table's cell."""
    interval = "one seed"
    if gain["low"] is not None:
        interval = f"{format_points(gain['low'])} to {format_points(gain['high'])}"
    return [format_points(gain["difference"]), interval]


def list_sizes(study: dict) -> list[int]:
    """Return the numbers of labels on the curve."""
    return sorted({point["num_examples"] for points in study["curve"].values() for point in points})


def table_rows(study: dict, curves: dict[str, list[dict]], format_point: Callable[[dict], list[str]]) -> list[list]:
    """Return a row for each variant, with a cell for each number of labels."""
    rows = []
    for variant, points in curves.items():
        cells = {point["num_examples"]: format_point(point) for point in points}
        rows.append([study["variants"][variant], *(cells.get(size, "–") for size in list_sizes(study))])
    return rows


def describe_skipped(study: dict) -> list[str]:
    """Return a line for each variant that was left out, with the reason, and one for classes without a test row."""
    skipped = [f"{study['titles'][variant]}: {reason}" for variant, reason in study["skipped"].items()]
    return skipped + describe_test_rows(study)


def render_page(study: dict, svg: str, mistakes: list[dict[str, str]] | None = None) -> str:
    """Render the report. svg: the plot; mistakes: {"text"} or {"image"} of each of the study's; None: their texts."""
    first, *others = study["sentences"].values() or [{"match": None}]
    listed = study.get("errors", {}).get("mistakes", [])
    return render(
        "finetune/study/report.html.j2",
        title=f"What pretraining is worth: {study['task']}",
        study=study,
        gain=first["match"] and first["gain"],
        svg=inline_svg(svg, f"{study['metric']} against the number of labels"),
        header=["", *([f"{size:,}", "labels"] for size in list_sizes(study))],
        means=table_rows(study, study["curve"], format_mean),
        gains=table_rows(study, study["paired_differences"], format_gain),
        sentences=[text for pair in others for text in pair.values() if text and text not in first.values()],
        skipped=describe_skipped(study),
        errors=study.get("errors"),
        contamination=describe_contamination(study["contamination"]),
        mistakes=list(zip(listed, listed if mistakes is None else mistakes, strict=True)),
    )


def format_study_summary(study: dict, folder: Path) -> str:
    """Format the terminal's summary."""
    width = max(map(len, study["variants"].values())) + 2

    def mean(point: dict) -> str:
        half = "" if point["high"] is None else f" ± {100 * (point['high'] - point['mean']):.1f}"
        return f"{100 * point['mean']:.1f}{half}"

    sizes = "".join(f"{size:>14,}" for size in list_sizes(study))
    lines = [
        "",
        f"  {study['metric'] + ', %':<{width}}{sizes}   labels",
        *(
            f"  {name:<{width}}" + "".join(f"{cell:>14}" for cell in cells)
            for name, *cells in table_rows(study, study["curve"], mean)
        ),
        "",
        f"  {study['sentence']}",
        *(f"  {line}" for line in describe_skipped(study)),
        "",
        f"  report  {folder / 'report.html'}",
        f"  curve   {folder / 'study.png'}, {folder / 'study.svg'}",
        f"  all     {folder / 'study.json'}",
    ]
    return "\n".join(lines)
