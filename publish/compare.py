"""Compare runs:  python -m publish.compare out/runs/A out/runs/B ...   (one will do, and one that still trains)

A table in the terminal, and a page of overlaid curves that needs nothing else. `--help` lists the keys.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from statistics import median
from typing import Annotated

from pydantic import Field

from engine.command import command, configuration
from engine.config import Section
from engine.files import write_text
from engine.page import page as framed, table
from engine.record import RUNS
from publish import curves, runs
from publish.report import duration
from publish.words import as_keys

SHOWN_KEYS = 40  # configuration keys that differ, on the page


class Compare(Section):
    """Hold runs against each other."""

    runs: Annotated[list[str], Field(min_length=1)]
    """Their folders, or names in out/runs; bare words are taken for these."""
    page: str | None = None
    """Where the page goes; none: out/compared/ and the runs' names."""


def names_of(folders: list[Path]) -> list[str]:
    """What each run is called: the end of its path from where the paths differ on."""
    parts = [folder.resolve().parts for folder in folders]
    long = next((length for length in range(1, max(map(len, parts)) + 1)
                 if len({each[-length:] for each in parts}) == len(parts)), 1)
    return ["/".join(each[-long:]) for each in parts]


def summarised(run: runs.Told) -> dict[str, str]:
    """What the table tells of a run: the end of training, the last evaluation, the figures on test rows."""
    log = run.log
    if not log:
        return {"steps": "0"}
    evaluated = next((entry for entry in reversed(log) if any("/" in name for name in entry)), {})
    speeds = [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    found = {"steps": f"{log[-1]['step']:,}", "tokens": f"{log[-1].get('tokens', 0):,}",
             "time": duration(log[-1].get("seconds", 0)), "tokens/s": f"{median(speeds):,.0f}" if speeds else "–",
             "loss": f"{log[-1].get('loss', float('nan')):.3f}"}
    found |= {name: runs.written(value) for name, value in evaluated.items() if "/" in name}
    if "test" in run.metrics:
        found |= {f"test/{name}": runs.written(value) for name, value in run.metrics["test"].items()}
    return found


def rows_of(told: dict[str, runs.Told]) -> tuple[list[str], list[list[str]]]:
    """(the header, a line for each figure) of the table, a column a run."""
    found = {name: summarised(run) for name, run in told.items()}
    figures = dict.fromkeys(figure for each in found.values() for figure in each)
    return ["", *found], [[figure, *(each.get(figure, "–") for each in found.values())] for figure in figures]


def differing(told: dict[str, runs.Told]) -> list[list[str]]:
    """The configuration's keys in which the runs differ, with each run's value."""
    keys = dict.fromkeys(key for run in told.values() for key in run.config)
    rows = [[key, *(str(run.config.get(key, "–")) for run in told.values())] for key in keys if key != "run"]
    return [row for row in rows if len(set(row[1:])) > 1]


def page(told: dict[str, runs.Told]) -> str:
    """The whole page: which line is which run, the curves, the table, and what was set differently."""
    logs = {name: run.log for name, run in told.items()}
    header, rows = rows_of(told)
    heads = ["", *(f"{curves.key(place)}{html.escape(name)}" for place, name in enumerate(told))]
    escaped = [[html.escape(cell) for cell in row] for row in rows]
    differ = [[html.escape(cell) for cell in row] for row in differing(told)[:SHOWN_KEYS]]
    return framed("Runs compared: " + ", ".join(told), table(heads, escaped) + f"<h2>Curves</h2>{runs.charts(logs)}"
                  + (f"<h2>What was set differently</h2>{table(heads, differ)}" if differ else ""), curves.STYLE)


def summary(told: dict[str, runs.Told]) -> str:
    """The table in the terminal."""
    header, rows = rows_of(told)
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
             for row in [header, *rows]]
    return "\n".join("  " + "   ".join(line).rstrip() for line in lines)


def compare(config: Compare) -> None:
    """Print the table and write the page. Raises ConfigError for a folder that is no run."""
    folders = [Path(run) if "/" in run or Path(run).is_dir() else RUNS / run for run in dict.fromkeys(config.runs)]
    names = names_of(folders)
    told = {name: runs.read(folder) for name, folder in zip(names, folders)}
    short = "-".join(name.replace("/", "-") for name in names)[:100]
    path = Path(config.page) if config.page else Path("out/compared") / f"{short}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(told))
    print(f"\n{summary(told)}\n\n  page  {os.fspath(path)}")


def main(words: list[str]) -> None:
    config = configuration(Compare, as_keys(words, "runs", many=True), "publish.compare", "out/runs/A out/runs/B")
    if config is not None:
        compare(config)


if __name__ == "__main__":
    command(main)
