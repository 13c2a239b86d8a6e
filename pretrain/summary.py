"""The summary of a finished run, for the terminal."""

from itertools import pairwise

from data.modalities import load_modality
from engine.files import read_json
from engine.log import warn_once
from engine.runs.run import Run
from publish.card.card import describe_quality, describe_views

SPARK_LEVELS = "▁▂▃▄▅▆▇█"
REPORTED_METRICS = (
    ("loss", "held-out loss", "15 % masked, always the same"),
    ("perplexity", "perplexity", "of held-out text, per token"),
    ("reconstruction_loss", "reconstruction", "of held-out inputs"),
    ("retrieval_acc@1", "retrieval", "accuracy@1, {views} ({num_candidates:,} candidates)"),
    ("frechet_distance", "samples", "Fréchet distance to held-out images"),
    ("squared_error", "reconstruction", "squared error of a pixel"),
    ("cycle_error", "cycle", "error of a pixel"),
)
MAX_LOSS_RATIO = 1.5  # of the loss at the end to that at the start, from which a divergence is reported
EXAMPLE_TASKS = {"text": "sentiment", "images": "solar"}


def report_higher_loss(losses: list[float]) -> None:
    """Warn if the loss is far higher at the end of training than at its start. losses: as logged, in their order."""
    last = losses[-max(1, len(losses) // 10) :]
    if len(losses) > 1 and sum(last) / len(last) > MAX_LOSS_RATIO * losses[0] > 0:
        message = f"the loss rose from {losses[0]:.3g} to {sum(last) / len(last):.3g}; try a lower train.lr"
        warn_once(f"warning: training diverges: {message}", "divergence")


def sparkline(values: list[float], width: int = 48) -> str:
    """Draw a curve in one line of text, from the means of up to `width` consecutive groups of values."""
    num_groups = min(width, len(values))
    bounds = [round(index * len(values) / num_groups) for index in range(num_groups + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(bounds) if end > start]
    low, high = min(means), max(means)
    return "".join(SPARK_LEVELS[round((mean - low) / (high - low or 1) * (len(SPARK_LEVELS) - 1))] for mean in means)


def format_summary(run: Run) -> str:
    """Format loss curve, evaluations, tokens, speed, encoder folder and next command."""
    log, metrics, encoder = run.read_log(), read_json(run.folder / "metrics.json"), run.folder / "encoder"
    losses = [entry["loss"] for entry in log if entry["loss"] is not None]
    evals = [(entry["step"], entry["eval"]) for entry in log if "eval" in entry]
    modality = load_modality(run.config.modality)
    unit, views = modality.unit, describe_views(modality.name)
    task = EXAMPLE_TASKS.get(modality.name, "mine")
    minutes, seconds = divmod(round(metrics["seconds"]), 60)
    lines, last = [""], evals[-1][1] if evals else {}  # a run that is continued for no more steps may have neither
    if losses:
        lines.append(f"  training loss   {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    for name, title, meaning in REPORTED_METRICS:
        if name in last:
            values = [f"{values[name]:.3f} (step {step})" for step, values in evals[-4:]]
            if run.config.init_fraction:  # the saved mean with init's weights is evaluated after the last step
                values.append(f"{metrics['eval'][name]:.3f} (as saved)")
            lines.append(f"  {title:<15} " + "  ".join(values) + "   " + meaning.format(views=views, **last))
    lines += [f"  {title:<15} {text}" for title, text in describe_quality(metrics)]
    lines += [
        f"  {unit + ' seen':<15} {metrics['tokens']:,} in {metrics['steps']:,} steps, {minutes} min {seconds:02d} s",
        f"  speed           {metrics['tokens_per_second']:,} {unit} per second",
        f"  encoder         {encoder}",
    ]
    report = run.folder / "report.html"
    if report.is_file():
        lines.append(f"  report          {report}")
    return "\n".join([*lines, "", f"  next            make finetune TASK={task} ENCODER={encoder}"])
