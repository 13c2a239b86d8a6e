"""What each way of fine-tuning is worth: one setting changed at a time, encoder, labels and seeds the same.

    python benchmarks/ablation.py [tasks=sentiment] [labels=100] [seeds=5] [encoder=minilm] [only=decay-1,lora]

A difference is a variant's test accuracy less the default's with the same seed; its 95 % interval is Student's t over the
seeds. The last weights are measured, no validation label is used. A run that was made is kept in out/ablation, so that a
benchmark that was stopped goes on where it was. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CACHE_FOLDER = ROOT / "out" / "ablation"
VARIANTS = {
    "default": [],
    "to-the-end": ["layers.freeze_at=[]"],
    "settle-later": ["layers.freeze_at=[0.25,0.5,0.75]"],
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
    """{"accuracy", "seconds"} of one fine-tuning, made if it is not there."""
    from data.cache import fingerprint
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    config = load_config(
        Finetune,
        [
            f"configs/finetune/{task}.yaml",
            *VARIANTS[variant],
            f"encoder={encoder}",
            "baselines=false",
            f"task.num_examples={num_examples}",
            f"seed={seed}",
            "train.load_best=false",
            "run=ablation",
        ],
    )
    told = fingerprint(config.model_dump(mode="json"))[:6]  # with other defaults it is another cell
    path = CACHE_FOLDER / f"{Path(encoder).parent.name or encoder}-{task}-{num_examples}-{variant}-{seed}-{told}.json"
    if not path.is_file():
        config = config.model_copy(update={"run": f"ablation-{path.stem}"})
        folder = RUNS_FOLDER / config.run
        shutil.rmtree(folder, ignore_errors=True)  # of a cell that was stopped
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        shutil.rmtree(folder)
        path.write_text(json.dumps({"accuracy": metrics["test"]["accuracy"], "seconds": metrics["seconds"]}))
        print(path.stem, path.read_text(), flush=True)
    return json.loads(path.read_text())


def main(args: list[str]) -> None:
    """Run what is not there yet, and write the table."""
    import results

    own = {"tasks": "sentiment", "labels": "100", "seeds": "5", "encoder": "minilm", "only": ",".join(VARIANTS)}
    own |= dict(word.split("=", 1) for word in args)
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    tables = []
    for task in own["tasks"].split(","):
        for labels in own["labels"].split(","):
            lines = ["| | accuracy | against the default, points | seconds |", "|---|---|---|---|"]
            for variant in dict.fromkeys(["default", *own["only"].split(",")]):
                runs = [run_trial(task, labels, variant, seed, own["encoder"]) for seed in range(int(own["seeds"]))]
                accuracies = np.array([run["accuracy"] for run in runs])
                usual = accuracies if variant == "default" else usual
                gain = 100 * (accuracies - usual)
                half = (
                    stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.nan
                )
                told = f"{gain.mean():+.1f} ({gain.mean() - half:+.1f} to {gain.mean() + half:+.1f})"
                lines.append(
                    f"| {variant} | {accuracies.mean():.3f} | {'' if variant == 'default' else told}"
                    f" | {np.mean([run['seconds'] for run in runs]):.0f} |"
                )
            tables.append(
                "\n".join([f"`{task}`, {labels} labels, {own['seeds']} seeds, `{own['encoder']}`:", "", *lines])
            )
    results.write_section("One setting at a time", " ".join(["python benchmarks/ablation.py", *args]), "\n\n".join(tables))
    print("\n\n".join(tables))


if __name__ == "__main__":
    main(sys.argv[1:])
