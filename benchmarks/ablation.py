"""Ablation of fine-tuning settings: one setting changes at a time; encoder, labels and seeds stay the same.

    python benchmarks/ablation.py [tasks=sentiment] [labels=100] [seeds=5] [encoder=minilm] [only=decay-1,lora]

Each variant's test accuracy is compared with the default's by seed, with 95% confidence intervals (Student's t). The
last weights are evaluated and no validation labels are used. Finished runs are cached in out/ablation, so an
interrupted benchmark resumes. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import results

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
    "rate-doubled": ["train.lr=2e-4"],
    "head-faster": ["layers.head_lr=1e-3"],
    "half-the-steps": ["train.epochs=5", "train.min_steps=65"],
    "twice-the-steps": ["train.epochs=20", "train.min_steps=260"],
    "reinitialise-1": ["layers.reinit_layers=1"],
    "average-0.2": ["train.average_fraction=0.2"],
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


def run_trial(task: str, num_examples: str, variant: str, seed: int, encoder: str) -> dict[str, float]:
    """Return {"accuracy", "seconds"} of one fine-tuning run, from the cache if it is there."""
    from data.cache import fingerprint
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    args = [f"encoder={encoder}", "baselines=false", f"task.num_examples={num_examples}", f"seed={seed}"]
    args = [f"configs/finetune/{task}.yaml", "method=none", *VARIANTS[variant], *args]
    args += ["train.load_best=false", "run=ablation"]
    config = load_config(Finetune, args)
    inputs = fingerprint(config.model_dump(mode="json"))[:6]  # distinguishes runs with other defaults
    path = CACHE_FOLDER / f"{Path(encoder).parent.name or encoder}-{task}-{num_examples}-{variant}-{seed}-{inputs}.json"
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


def ablation_table(task: str, labels: str, variants: list[str], num_seeds: int, encoder: str) -> str:
    """Run what is missing and return the table of one task and number of labels."""
    lines, accuracies = ["| | accuracy | difference to default, points | seconds |", "|---|---|---|---|"], {}
    for variant in dict.fromkeys(["default", *variants]):
        runs = [run_trial(task, labels, variant, seed, encoder) for seed in range(num_seeds)]
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
    options, _ = results.parse_options(args, **defaults)
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    variants, num_seeds = options["only"].split(","), int(options["seeds"])
    text = "\n\n".join(
        ablation_table(task, labels, variants, num_seeds, options["encoder"])
        for task in options["tasks"].split(",")
        for labels in options["labels"].split(",")
    )
    results.write_section("One setting at a time", " ".join(["python benchmarks/ablation.py", *args]), text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
