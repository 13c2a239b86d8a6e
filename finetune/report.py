"""What a person reads at the end: the table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.record import Run
from publish.card import CLASSES, call, title


def table(rows: list[tuple[str, dict | None]], shown: Sequence[str] = CLASSES) -> list[str]:
    """Lines of name and the figures `shown` on the test rows."""
    wide = max(len(name) for name, _ in rows) + 4
    widths = {figure: max(8, len(title(figure))) for figure in shown}
    lines = [f"  {'on the test rows':<{wide}}" + "   ".join(f"{title(figure):>{width}}" for figure, width in widths.items())]
    for name, figures in rows:
        told = "   ".join(f"{figures[figure]:>{width}.3f}" if figures else f"{'-':>{width}}"
                          for figure, width in widths.items())
        lines.append(f"  {name:<{wide}}{told}")
    return lines


def figures_of(metrics: dict) -> list[tuple[str, dict | None]]:
    """The rows of the table: ours first."""
    return [(f"{metrics['encoder']}, fine-tuned", metrics["test"]),
            *((told["name"], told.get("test")) for told in reversed(metrics["baselines"].values()))]


def summary(run: Run) -> str:
    """The table beside its references, where the model lies, what to type next."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    return "\n".join([
        "", f"  {metrics['task']}: {metrics['labels']:,} labels of {metrics['labels_available']:,},"
            f" {metrics['test']['n']:,} test rows", "",
        *table(figures_of(metrics), metrics.get("shown", CLASSES)), "",
        f"  model   {run.folder / 'model'}",
        *([f"  report  {run.folder / 'report.html'}"] * (run.folder / "report.html").is_file()),
        *([f"  adapter {run.folder / 'adapter'} on {run.folder / 'base'}, for peft"] * (run.folder / "adapter").is_dir()),
        f"  next    python -c \"from transformers import pipeline; "
        f"print({call(metrics.get('learns', 'class'), str(run.folder / 'model'))})\""])
