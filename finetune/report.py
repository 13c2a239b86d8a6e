"""What a person reads at the end: the table in the terminal, and the card in the model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.record import Run

CLASSES = ("accuracy", "f1_macro")
"""What is shown of a run whose record does not say."""
TITLES = {"f1_macro": "macro F1", "f1_micro": "micro F1", "f1": "entity F1", "spearman": "Spearman", "pearson": "Pearson",
          "rmse": "RMSE"}
AT_MOST = 30  # labels named in the card
DOES = {
    "class": """Classifies text into {labels}""",
    "labels": """Says which of these labels a text has, any number of them: {labels}. `config.json` holds a threshold for each
label, fitted on the validation rows (its `thresholds`): from that probability on the label is said""",
    "number": """Says the number `{labels}` of a text""",
    "tags": """Finds the entities in a text, by tags of its words: {labels}"""}
CALIBRATED = """
Its probabilities are calibrated: the logits' temperature, {temperature:.3f}, was fitted on the validation rows (Guo et al.
2017) and is already part of the last layer's weights. Expected calibration error on the test rows: {after:.3f},
{before:.3f} without it.
"""


def title(figure: str) -> str:
    """A figure as a person calls it."""
    return TITLES.get(figure, figure.replace("_", " "))


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
        *([f"  adapter {run.folder / 'adapter'} on {run.folder / 'base'}, for peft"] * (run.folder / "adapter").is_dir()),
        f"  next    python -c \"from transformers import pipeline; "
        f"print({call(metrics.get('learns', 'class'), str(run.folder / 'model'))})\""])


def call(learns: str, where: str) -> str:
    """How plain transformers asks the model at `where`, in Python."""
    task = "token-classification" if learns == "tags" else "text-classification"
    more = {"labels": ", top_k=None", "tags": ", aggregation_strategy='first'"}.get(learns, "")
    return f"pipeline('{task}', '{where}'{more})('your text')"


def card(made: dict, settings: dict = {}) -> str:
    """The model folder's README.md, made from its record; `settings` as in its config.json."""
    config, test, names, shown = made["config"], made["figures"]["test"], made["labels"], made.get("shown", CLASSES)
    rows = "\n".join(f"| {name} | {' | '.join(f'{figures[figure]:.3f}' for figure in shown)} |" for name, figures in [
        ("this model", test), *((told["name"], told["test"]) for told in made["baselines"].values() if "test" in told)])
    learns = made.get("learns", "class")
    names = [name[2:] for name in names if name.startswith("B-")] if learns == "tags" else names
    listed = ", ".join(names[:AT_MOST]) + f" and {len(names) - AT_MOST:,} more" * (len(names) > AT_MOST)
    told = CALIBRATED.format(temperature=settings["calibration"]["temperature"], after=test["ece"],
                             before=test["ece_uncalibrated"]) if "calibration" in settings else ""
    task = "token-classification" if learns == "tags" else "text-classification"
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags: [headstart, {config['task']['name']}]
---

# {made['run']}

{DOES[learns].format(labels=listed)}: the encoder `{config['encoder']}` fine-tuned on
{made['rows']['train']:,} labels of the task `{config['task']['name']}`. On {test['n']:,} test rows:

| | {' | '.join(map(title, shown))} |
|---|{'---|' * len(shown)}
{rows}
{told}
```python
from transformers import pipeline

print({call(learns, 'PATH_OR_NAME').replace("'", '"')})
```

`record.json` holds the whole configuration, the versions and the seed.
"""
