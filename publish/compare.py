"""Compare runs:  python -m publish.compare out/runs/A out/runs/B ...

Prints a table and writes an HTML page of overlaid curves, without external files. A run that is still training will do.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engine.cli import parse_config, run_command
from engine.config.schema import Section
from engine.files import write_text
from engine.html import render
from engine.log import get_logger
from engine.runs.run import RUNS_FOLDER
from publish.report import runs

logger = get_logger(__name__)

MAX_DIFFERENCES = 40  # differing configuration keys on the page


class Compare(Section):
    """Compare runs."""

    runs: Annotated[list[str], Field(min_length=1)]
    """Folders of the runs, or their names in out/runs; also positional arguments."""
    page: str | None = None
    """Path of the HTML page; none: in out/compared/, named after the runs."""


def run_names(folders: list[Path]) -> list[str]:
    """Return the shortest distinct names: as many trailing parts of each path as make them differ."""
    parts = [folder.resolve().parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    length = next((length for length in lengths if len({path[-length:] for path in parts}) == len(parts)), 1)
    return ["/".join(path[-length:]) for path in parts]


def summarize_run(run: runs.LoadedRun) -> dict[str, str]:
    """Return a run's column of the table: its last log line, its last evaluation and its test metrics."""
    if not run.log:
        return {"steps": "0"}
    evaluation = next((entry for entry in reversed(run.log) if any("/" in name for name in entry)), {})
    return {
        **runs.summarize_training(run.log, run.config.get("task.modality") or run.config.get("modality", "text")),
        "loss": f"{run.log[-1].get('loss', float('nan')):.3f}",
        **{name: runs.format_number(value) for name, value in evaluation.items() if "/" in name},
        **{f"test/{name}": runs.format_number(value) for name, value in run.metrics.get("test", {}).items()},
    }


def table_rows(loaded_runs: dict[str, runs.LoadedRun]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table: a column for each run, a row for each metric."""
    columns = {name: summarize_run(run) for name, run in loaded_runs.items()}
    metrics = dict.fromkeys(metric for column in columns.values() for metric in column)
    return ["", *columns], [[metric, *(column.get(metric, "–") for column in columns.values())] for metric in metrics]


def config_differences(loaded_runs: dict[str, runs.LoadedRun]) -> list[list[str]]:
    """Return the configuration keys in which the runs differ, each with the value in each run."""
    keys = dict.fromkeys(key for run in loaded_runs.values() for key in run.config)
    rows = [[key, *(str(run.config.get(key, "–")) for run in loaded_runs.values())] for key in keys if key != "run"]
    return [row for row in rows if len(set(row[1:])) > 1]


def render_comparison(loaded_runs: dict[str, runs.LoadedRun]) -> str:
    """Return the page: a table with a legend, the curves, and the differences in configuration."""
    return render(
        "publish/report/compare.html.j2",
        title="Runs compared: " + ", ".join(loaded_runs),
        results=table_rows(loaded_runs),
        charts=runs.metric_charts({name: run.log for name, run in loaded_runs.items()}),
        differences=config_differences(loaded_runs)[:MAX_DIFFERENCES],
    )


def comparison_table(loaded_runs: dict[str, runs.LoadedRun]) -> str:
    """Return the table for the terminal."""
    header, rows = table_rows(loaded_runs)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *cells in [header, *rows]:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  " + "   ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def compare(config: Compare) -> None:
    """Print the table and write the page. Raises ConfigError for a folder that is not a run."""
    names = dict.fromkeys(config.runs)
    folders = [Path(run) if "/" in run or Path(run).is_dir() else RUNS_FOLDER / run for run in names]
    loaded_runs = dict(zip(run_names(folders), map(runs.load_run, folders), strict=True))
    short_name = "-".join(name.replace("/", "-") for name in loaded_runs)[:100]
    path = Path(config.page) if config.page else Path("out/compared") / f"{short_name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_comparison(loaded_runs))
    logger.info(f"\n{comparison_table(loaded_runs)}\n\n  page  {os.fspath(path)}")


def main(args: list[str]) -> None:
    """Compare the runs that the command line names."""
    config = parse_config(Compare, args, "publish.compare", "out/runs/A out/runs/B", positional="runs")
    if config:
        compare(config)


if __name__ == "__main__":
    run_command(main)
