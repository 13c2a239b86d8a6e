"""What a person reads at the end: the table in the terminal, and the card in the model folder."""

from __future__ import annotations

import json

from engine.record import Run


def table(rows: list[tuple[str, dict | None]]) -> list[str]:
    """Lines of name, accuracy and macro F1 on the test rows."""
    wide = max(len(name) for name, _ in rows) + 4
    lines = [f"  {'on the test rows':<{wide}}accuracy   macro F1"]
    for name, figures in rows:
        told = f"{figures['accuracy']:>8.3f}   {figures['f1_macro']:>8.3f}" if figures else f"{'-':>8}   {'-':>8}"
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
        *table(figures_of(metrics)), "",
        f"  model   {run.folder / 'model'}",
        f"  next    python -c \"from transformers import pipeline; "
        f"print(pipeline('text-classification', '{run.folder / 'model'}')('your text'))\""])


def card(made: dict) -> str:
    """The model folder's README.md, made from its record."""
    config, test = made["config"], made["figures"]["test"]
    rows = "\n".join(f"| {name} | {figures['accuracy']:.3f} | {figures['f1_macro']:.3f} |" for name, figures in [
        ("this model", test), *((told["name"], told["test"]) for told in made["baselines"].values() if "test" in told)])
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [headstart, {config['task']['name']}]
---

# {made['run']}

Classifies text into {', '.join(made['labels'])}: the encoder `{config['encoder']}` fine-tuned on
{made['rows']['train']:,} labels of the task `{config['task']['name']}`. On {test['n']:,} test rows:

| | accuracy | macro F1 |
|---|---|---|
{rows}

```python
from transformers import pipeline

print(pipeline("text-classification", "PATH_OR_NAME")("your text"))
```

`record.json` holds the whole configuration, the versions and the seed.
"""
