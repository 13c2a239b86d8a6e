"""Compare runs:  python -m publish.compare out/runs/A out/runs/B ...   (one will do, and one that still trains).

A table in the terminal, and a page of overlaid curves that needs nothing else. `--help` lists the keys.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from statistics import median
from typing import Annotated

from pydantic import Field

from engine.cli import parse_config, run_command
from engine.config.schema import Section
from engine.files import write_text
from engine.html import page as framed, table
from engine.runs.run import RUNS_FOLDER
from publish.report import charts, runs
from publish.report.run_report import format_duration
from publish.words import flags_to_keys

MAX_DIFFERENCES = 40  # configuration keys that differ, on the page


class Compare(Section):
    """Hold runs against each other."""

    runs: Annotated[list[str], Field(min_length=1)]
    """Their folders, or names in out/runs; bare words are taken for these."""
    page: str | None = None
    """Where the page goes; none: out/compared/ and the runs' names."""


def run_names(folders: list[Path]) -> list[str]:
    """What each run is called: the end of its path from where the paths differ on."""
    parts = [folder.resolve().parts for folder in folders]
    long = next(
        (
            length
            for length in range(1, max(map(len, parts)) + 1)
            if len({each[-length:] for each in parts}) == len(parts)
        ),
        1,
    )
    return ["/".join(each[-long:]) for each in parts]


def summarize_run(run: runs.LoadedRun) -> dict[str, str]:
    """What the table tells of a run: the end of training, the last evaluation, the figures on test rows."""
    log = run.log
    if not log:
        return {"steps": "0"}
    evaluated = next((entry for entry in reversed(log) if any("/" in name for name in entry)), {})
    speeds = [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    found = {
        "steps": f"{log[-1]['step']:,}",
        "tokens": f"{log[-1].get('tokens', 0):,}",
        "time": format_duration(log[-1].get("seconds", 0)),
        "tokens/s": f"{median(speeds):,.0f}" if speeds else "–",
        "loss": f"{log[-1].get('loss', float('nan')):.3f}",
    }
    found |= {name: runs.format_number(value) for name, value in evaluated.items() if "/" in name}
    if "test" in run.metrics:
        found |= {f"test/{name}": runs.format_number(value) for name, value in run.metrics["test"].items()}
    return found


def table_rows(loaded_runs: dict[str, runs.LoadedRun]) -> tuple[list[str], list[list[str]]]:
    """(the header, a line for each figure) of the table, a column a run."""
    found = {name: summarize_run(run) for name, run in loaded_runs.items()}
    figures = dict.fromkeys(figure for each in found.values() for figure in each)
    return ["", *found], [[figure, *(each.get(figure, "–") for each in found.values())] for figure in figures]


def config_differences(loaded_runs: dict[str, runs.LoadedRun]) -> list[list[str]]:
    """The configuration's keys in which the runs differ, with each run's value."""
    keys = dict.fromkeys(key for run in loaded_runs.values() for key in run.config)
    rows = [[key, *(str(run.config.get(key, "–")) for run in loaded_runs.values())] for key in keys if key != "run"]
    return [row for row in rows if len(set(row[1:])) > 1]


def render_comparison(loaded_runs: dict[str, runs.LoadedRun]) -> str:
    """The whole page: which line is which run, the curves, the table, and what was set differently."""
    logs = {name: run.log for name, run in loaded_runs.items()}
    header, rows = table_rows(loaded_runs)
    heads = ["", *(f"{charts.legend_key(place)}{html.escape(name)}" for place, name in enumerate(loaded_runs))]
    escaped = [[html.escape(cell) for cell in row] for row in rows]
    differ = [[html.escape(cell) for cell in row] for row in config_differences(loaded_runs)[:MAX_DIFFERENCES]]
    return framed(
        "Runs compared: " + ", ".join(loaded_runs),
        table(heads, escaped)
        + f"<h2>Curves</h2>{runs.metric_charts(logs)}"
        + (f"<h2>What was set differently</h2>{table(heads, differ)}" if differ else ""),
        charts.STYLE,
    )


def comparison_table(loaded_runs: dict[str, runs.LoadedRun]) -> str:
    """The table in the terminal."""
    header, rows = table_rows(loaded_runs)
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        for row in [header, *rows]
    ]
    return "\n".join("  " + "   ".join(line).rstrip() for line in lines)


def compare(config: Compare) -> None:
    """Print the table and write the page. Raises ConfigError for a folder that is no run."""
    folders = [
        Path(run) if "/" in run or Path(run).is_dir() else RUNS_FOLDER / run for run in dict.fromkeys(config.runs)
    ]
    names = run_names(folders)
    told = {name: runs.load_run(folder) for name, folder in zip(names, folders)}
    short = "-".join(name.replace("/", "-") for name in names)[:100]
    path = Path(config.page) if config.page else Path("out/compared") / f"{short}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_comparison(told))
    print(f"\n{comparison_table(told)}\n\n  page  {os.fspath(path)}")


def main(args: list[str]) -> None:
    config = parse_config(
        Compare, flags_to_keys(args, "runs", allow_many=True), "publish.compare", "out/runs/A out/runs/B"
    )
    if config is not None:
        compare(config)


if __name__ == "__main__":
    run_command(main)
