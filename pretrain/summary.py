"""What a person reads at the end: the summary in the terminal."""

from __future__ import annotations

import json

from engine.runs.run import Run

SPARK_LEVELS = "▁▂▃▄▅▆▇█"
REPORTED_METRICS = (
    ("loss", "held-out loss", "15 % hidden, always the same"),
    ("retrieval_acc@1", "other half", "of a held-out text found among {among:,}"),
)


def sparkline(values: list[float], width: int = 48) -> str:
    """A curve in one line of text: `width` means of successive stretches, lowest to highest."""
    cuts = [round(index * len(values) / min(width, len(values))) for index in range(min(width, len(values)) + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:]) if b > a]
    low, high = min(means), max(means)
    return "".join(SPARK_LEVELS[round((mean - low) / (high - low or 1) * (len(SPARK_LEVELS) - 1))] for mean in means)


def summary(run: Run) -> str:
    """Loss curve, evaluation, tokens, speed, where the encoder lies, what to type next."""
    log, metrics = run.read_log(), json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in log if entry["loss"] is not None]
    evaluations = [entry for entry in log if "eval" in entry]
    # The mean with init's weights is measured apart, after the last step.
    written = (
        (lambda figure: f"  {metrics['held_out'][figure]:.3f} (as written)")
        if run.config.init_share
        else lambda figure: ""
    )
    minutes, seconds = divmod(round(metrics["seconds"]), 60)
    lines = [
        "",
        f"  training loss   {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}",
        *(
            f"  {title:<15} "
            + "  ".join(f"{e['eval'][figure]:.3f} (step {e['step']})" for e in evaluations[-4:])
            + written(figure)
            + "   "
            + meaning.format(**evaluations[-1]["eval"])
            for figure, title, meaning in REPORTED_METRICS
            if figure in evaluations[-1]["eval"]
        ),
        f"  tokens seen     {metrics['tokens']:,} in {metrics['steps']:,} steps, {minutes} min {seconds:02d} s",
        f"  speed           {metrics['tokens_per_second']:,} tokens per second",
        f"  encoder         {run.folder / 'encoder'}",
        *([f"  report          {run.folder / 'report.html'}"] * (run.folder / "report.html").is_file()),
        "",
        f"  next            make finetune TASK=sentiment ENCODER={run.folder / 'encoder'}",
    ]
    return "\n".join(lines)
