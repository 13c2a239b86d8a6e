"""What a person reads at the end: the table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.runs.run import Run
from publish.card.card import DEFAULT_METRICS, metric_title, pipeline_call


def format_table(rows: list[tuple[str, dict | None]], metric_names: Sequence[str] = DEFAULT_METRICS) -> list[str]:
    """Lines of name and the figures `metric_names` on the test rows."""
    wide = max(len(name) for name, _ in rows) + 4
    widths = {figure: max(8, len(metric_title(figure))) for figure in metric_names}
    lines = [
        f"  {'on the test rows':<{wide}}"
        + "   ".join(f"{metric_title(figure):>{width}}" for figure, width in widths.items())
    ]
    for name, figures in rows:
        told = "   ".join(
            f"{figures[figure]:>{width}.3f}" if figures else f"{'-':>{width}}" for figure, width in widths.items()
        )
        lines.append(f"  {name:<{wide}}{told}")
    return lines


def metric_rows(metrics: dict) -> list[tuple[str, dict | None]]:
    """The rows of the table: ours first."""
    return [
        (f"{metrics['encoder']}, fine-tuned", metrics["test"]),
        *((told["name"], told.get("test")) for told in reversed(metrics["baselines"].values())),
    ]


def format_run_summary(run: Run) -> str:
    """The table beside its references, where the model lies, what to type next."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    return "\n".join(
        [
            "",
            f"  {metrics['task']}: {metrics['num_train_examples']:,} labels of {metrics['num_available_examples']:,},"
            f" {metrics['test']['n']:,} test rows",
            "",
            *format_table(metric_rows(metrics), metrics.get("report_metrics", DEFAULT_METRICS)),
            "",
            f"  model   {run.folder / 'model'}",
            *([f"  report  {run.folder / 'report.html'}"] * (run.folder / "report.html").is_file()),
            *(
                [f"  adapter {run.folder / 'adapter'} on {run.folder / 'base'}, for peft"]
                * (run.folder / "adapter").is_dir()
            ),
            f'  next    python -c "from transformers import pipeline; '
            f'print({pipeline_call(metrics.get("problem_type", "single_label_classification"), str(run.folder / "model"))})"',
        ]
    )
