"""Ablation of fine-tuning settings: one setting changes at a time; encoder, labels and seeds stay the same.

    python benchmarks/ablation.py [tasks=sentiment] [labels=100] [seeds=5] [encoder=minilm] [only=decay-1,lora]
                                  [held_out=0] [data=FOLDER]

Each variant's test accuracy is compared with the default's by seed, with 95% confidence intervals (Student's t). The
last weights are evaluated and no validation labels are used. Finished runs are cached in out/ablation, so an
interrupted benchmark resumes. Writes its section of benchmarks/RESULTS.md.

held_out: the number of training rows to set aside and evaluate instead of the test rows, which are then not read; to
choose a setting. Tasks are those of benchmarks/tasks.py then, data its folder, and RESULTS.md stays as it is.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import results
import tasks

CACHE_FOLDER = results.ROOT / "out" / "ablation"
VARIANTS = {
    "default": [],
    "to-the-end": ["layers.freeze_at=[]"],
    "freeze-later": ["layers.freeze_at=[0.25,0.5,0.75]"],
    "gradual": ["configs/method/gradual.yaml"],
    "frozen-2": ["layers.num_frozen=2"],
    "frozen-4": ["configs/method/top.yaml"],
    "embeddings": ["layers.train_embeddings=true"],
    "decay-1": ["layers.lr_decay=1"],
    "decay-0.7": ["layers.lr_decay=0.7"],
    "cosine": ["train.schedule=cosine"],
    "constant": ["train.schedule=constant"],
    "warmup-0": ["train.warmup_fraction=0"],
    "rate-halved": ["train.lr=5e-5"],
    "rate-1.5": ["train.lr=1.5e-4"],
    "rate-doubled": ["train.lr=2e-4"],
    "head-faster": ["layers.head_lr=1e-3"],
    "half-the-steps": ["train.epochs=5", "train.min_steps=65"],
    "twice-the-steps": ["train.epochs=20", "train.min_steps=260"],
    "reinitialise-1": ["layers.reinit_layers=1"],
    "average-0.2": ["train.average_fraction=0.2"],
    "rate-doubled-average-0.5": ["train.lr=2e-4", "train.average_fraction=0.5"],
    "no-dropout": ["dropout=0"],
    "drop-tokens": ["augment.drop=0.1"],
    "swap": ["augment.swap=0.5"],
    "smoothing": ["head.label_smoothing=0.1"],
    "focal-2": ["head.focal_gamma=2"],
    "lora": ["configs/method/lora.yaml"],
    "ia3": ["configs/method/ia3.yaml"],
    "probe": ["configs/method/probe.yaml"],
    "fewshot": ["configs/method/fewshot.yaml"],
}


def split_train_rows(task: str, num_held_out: int, data_folder: str) -> list[str]:
    """Return the arguments of a task with training rows, sampled once, in place of its test rows."""
    args = tasks.task_args(task, data_folder)
    folder = CACHE_FOLDER / f"{task}-without-{num_held_out}"
    folder.mkdir(exist_ok=True)
    with open(tasks.FOLDER / task / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    for split, part in (("test", rows[:num_held_out]), ("train", rows[num_held_out:])):
        with open(folder / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("text", "label"))
            writer.writeheader()
            writer.writerows(part)
    return [*args, *(f"task.{split}.files={folder}/{split}.csv" for split in ("train", "test"))]


def run_trial(task_args: list[str], num_examples: str, variant: str, seed: int, encoder: str) -> dict[str, float]:
    """Return {"accuracy", "seconds"} of one fine-tuning run, from the cache if it is there."""
    from data.cache import fingerprint
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    args = [f"encoder={encoder}", "baselines=false", f"task.num_examples={num_examples}", f"seed={seed}"]
    args = [*task_args, "method=none", *VARIANTS[variant], *args]
    args += ["train.load_best=false", "run=ablation"]
    config = load_config(Finetune, args)
    inputs = fingerprint(config.model_dump(mode="json"))[:6]  # distinguishes runs with other defaults
    name = f"{Path(encoder).parent.name or encoder}-{config.task.name}"
    path = CACHE_FOLDER / f"{name}-{num_examples}-{variant}-{seed}-{inputs}.json"
    if not path.is_file():
        config = config.model_copy(update={"run": f"ablation-{path.stem}"})
        folder = RUNS_FOLDER / config.run
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted benchmark
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        shutil.rmtree(folder)
        path.write_text(json.dumps({"accuracy": metrics["test"]["accuracy"], "seconds": metrics["seconds"]}))
        print(path.stem, path.read_text(), flush=True)
    return json.loads(path.read_text())


def ablation_table(task: str, labels: str, options: dict[str, str]) -> str:
    """Run what is missing and return the table of one task and number of labels."""
    num_seeds, num_held_out, encoder = int(options["seeds"]), int(options["held_out"]), options["encoder"]
    task_args = [f"configs/finetune/{task}.yaml"]
    if num_held_out:
        task_args = split_train_rows(task, num_held_out, options["data"])
    lines, accuracies = ["| | accuracy | difference to default, points | seconds |", "|---|---|---|---|"], {}
    for variant in dict.fromkeys(["default", *options["only"].split(",")]):
        runs = [run_trial(task_args, labels, variant, seed, encoder) for seed in range(num_seeds)]
        accuracies[variant] = np.array([run["accuracy"] for run in runs])
        differences = 100 * (accuracies[variant] - accuracies["default"])
        mean, half = differences.mean(), results.half_interval(differences)
        difference = "" if variant == "default" else f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
        seconds = np.mean([run["seconds"] for run in runs])
        lines.append(f"| {variant} | {accuracies[variant].mean():.3f} | {difference} | {seconds:.0f} |")
    return "\n".join([f"`{task}`, {labels} labels, {num_seeds} seeds, `{encoder}`:", "", *lines])


def main(args: list[str]) -> None:
    """Run what is missing and write the tables."""
    defaults = {"tasks": "sentiment", "labels": "100", "seeds": "5", "encoder": "minilm", "only": ",".join(VARIANTS)}
    options, _ = results.parse_options(args, **defaults, held_out="0", data="")
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(
        ablation_table(task, labels, options)
        for task in options["tasks"].split(",")
        for labels in options["labels"].split(",")
    )
    if options["held_out"] == "0":
        results.write_section("One setting at a time", " ".join(["python benchmarks/ablation.py", *args]), text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
