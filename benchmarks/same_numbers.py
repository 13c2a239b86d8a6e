"""Show that a change leaves every number alone: losses and final weights of short trainings, before and after it.

    python benchmarks/same_numbers.py write=before.json                      at the commit before the change
    python benchmarks/same_numbers.py write=after.json compare=before.json   at the commit after it
    python benchmarks/same_numbers.py group=heads                            one of the groups below

Each case is a command in its own process with one thread, on a network that trains in seconds. The groups: pretrain
(every objective, BERT and ModernBERT), heads, methods, processes (two processes, a resumed run), defaults (the default
recipes for 40 steps). The table has the first and the last loss, a hash of all losses, and a hash of the final weights.
The exit code is 1 if a case differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VOCABULARY = (
    "a film the plot its actors dull bright slow warm never always night summer boring lovely old new house river "
    "train letter song quiet loud quick story ending first last scene"
).split()
CLASSES = ["no", "perhaps", "yes"]

# The tests' tiny network.
TINY_ARGS = [
    "configs/pretrain/scratch.yaml",
    "init=none",
    "max_length=32",
    "short_sequence_fraction=0",
    "tokenizer.vocab_size=512",
    "model.layers=2",
    "model.hidden_size=32",
    "model.attention_heads=2",
    "model.intermediate_size=32",
    "model.positions=64",
    "eval_rows=8",
    "corpus.name=tiny",
    "corpus.held_out=0.1",
    "corpus.sources=[{files: corpus.txt}]",
    "train.batch_size=8",
    "train.precision=float32",
    "train.optimizer=adamw",
    "train.steps=20",
    "train.log_every=1",
    "train.eval_every=10",
    "train.save_every=5",
    "train.keep_checkpoints=99",
    "dropout=0.1",
]
LABELED_ARGS = [
    "train.precision=float32",
    "max_length=32",
    "train.steps=20",
    "train.log_every=1",
    "train.eval_every=10",
    "train.batch_size=8",
    "task.name=tiny",  # first: earlier versions reset a section when its name changes
    "task.num_examples=48",
    "encoder=out/runs/mlm-bert/encoder",
    "method=none",
]
PAIR_ARGS = ["objective.views=span", "objective.min_span=3", "objective.max_span=8", "objective.max_gap=64"]

OBJECTIVES = {
    "mlm": ["objective={name: mlm}"],
    "contrastive": ["objective={name: contrastive}", *PAIR_ARGS],
    "joint": ["objective={name: joint}", *PAIR_ARGS],
    "simsiam": ["objective={name: simsiam}", *PAIR_ARGS],
}
PRETRAIN = {
    f"{name}-{architecture}": [*words, f"model.architecture={architecture}"]
    for name, words in OBJECTIVES.items()
    for architecture in ("bert", "modernbert")
} | {
    "mlm-muon": [
        *OBJECTIVES["mlm"],
        "train.optimizer=muon",
        "short_sequence_fraction=0.5",
        "train.average_fraction=0.3",
    ],
    "contrastive-micro": [*OBJECTIVES["contrastive"], "train.micro_batch_size=3", "objective.projection_dim=16"],
    "contrastive-init": [*OBJECTIVES["contrastive"], "init=out/runs/mlm-bert/encoder", "init_fraction=0.5"],
    "joint-init": [
        *OBJECTIVES["joint"],
        "init=out/runs/contrastive-bert/encoder",
        "init_fraction=0",
        "train.micro_batch_size=4",
    ],
}
HEADS = {
    "classification": ["head={name: classification}", "task.train.files=classes.csv"],
    "classification-modernbert": [
        "head={name: classification, focal_gamma: 1.0, class_weights: true}",
        "task.train.files=classes.csv",
        "encoder=out/runs/contrastive-modernbert/encoder",
        "layers.lr_decay=0.8",
    ],
    "multilabel": ["task.problem_type=multi_label_classification", "task.train.files=several.csv"],
    "regression": ["task.problem_type=regression", "task.train.files=numbers.csv"],
    "tokens": [
        "task.problem_type=token_classification",
        "task.train.files=tags.jsonl",
        "task.text=tokens",
        "task.label=tags",
    ],
    "supcon": [
        "head={name: supcon, cross_entropy_weight: 0.5}",
        "train.load_best=false",
        "train.sampling=class_balanced",
        "task.train.files=classes.csv",
    ],
}
METHODS = {
    "fewshot": [],
    "selftrain": ["task.num_examples=24"],
    "lora": [],
    "ia3": [],
    "gradual": ["train.steps=none", "train.max_steps=20"],
    "probe": [],
    "top": ["layers.num_frozen=1"],
    "documents": ["selftrain.corpus=documents.yaml", "selftrain.max_documents=40", "selftrain.min_steps=20"],
    "adapt": [
        "tapt.steps=20",
        "tapt.keys=[train.batch_size=8, train.precision=float32, max_length=32, eval_rows=8, corpus.held_out=0.1]",
    ],
}


def write_data(folder: Path) -> None:
    """Write a corpus and four labeled files, the same each time."""
    draw = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(VOCABULARY, k=draw.randint(least, most)))

    (folder / "corpus.txt").write_text("\n\n".join(text(20, 90) for _ in range(400)))
    (folder / "classes.csv").write_text(
        "text,label\n" + "".join(f"{text(3, 24)},{draw.choice(CLASSES)}\n" for _ in range(160))
    )
    (folder / "several.csv").write_text(
        "text,label\n"
        + "".join(f'{text(3, 24)},"{",".join(draw.sample(CLASSES, draw.randint(0, 3)))}"\n' for _ in range(160))
    )
    (folder / "numbers.csv").write_text(
        "text,label\n" + "".join(f"{text(3, 24)},{draw.random():.3f}\n" for _ in range(160))
    )
    with open(folder / "tags.jsonl", "w") as file:
        for _ in range(160):
            words = text(3, 16).split()
            file.write(
                json.dumps({"tokens": words, "tags": [draw.choice(["O", "B-person", "B-place"]) for _ in words]}) + "\n"
            )
    (folder / "documents.jsonl").write_text(
        "".join(
            json.dumps({"text": ". ".join(text(4, 12).capitalize() for _ in range(6)) + "."}) + "\n" for _ in range(60)
        )
    )
    (folder / "documents.yaml").write_text("corpus: {name: documents, sources: [{files: documents.jsonl}]}\n")


def run_module(args: list[str], folder: Path, num_processes: int = 1) -> None:
    """Run `python -m WORDS...` to its end. Exits with its output when it fails."""
    prefix = (
        ["-m"]
        if num_processes == 1
        else [
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(num_processes),
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "127.0.0.1:0",
            "-m",
        ]
    )
    done = subprocess.run(
        [sys.executable, *prefix, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    if done.returncode:
        sys.exit(f"{' '.join(args)}\nexit code {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def measure(run: Path) -> dict[str, object]:
    """Return the first and last loss of a finished run, a hash of all its losses, and one of its final weights."""
    import torch
    from safetensors.torch import load_file

    losses = [
        json.loads(line)["loss"]
        for log in sorted(run.rglob("log.jsonl"))
        for line in log.read_text(encoding="utf-8").splitlines()
    ]
    weights = hashlib.sha256()
    folder = run / "encoder" if (run / "encoder").is_dir() else run / "model"
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        weights.update(name.encode() + tensor.contiguous().view(-1).view(dtype=torch.uint8).numpy().tobytes())
    return {
        "first": losses[0] if losses else None,
        "last": losses[-1] if losses else None,
        "steps": len(losses),
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
    }


def resume(folder: Path) -> None:
    """Take a finished run back to its checkpoint of step 10 and finish it again."""
    run = folder / "out/runs/resumed"
    run_module(["pretrain", *TINY_ARGS, *OBJECTIVES["mlm"], "model.architecture=bert", "run=resumed"], folder)
    shutil.rmtree(run / "encoder")
    for step in ("step-000015", "step-000020"):
        shutil.rmtree(run / step)
    run_module(["pretrain", *TINY_ARGS, *OBJECTIVES["mlm"], "model.architecture=bert", "run=resumed"], folder)


def run_cases(folder: Path, group: str | None) -> dict[str, dict]:
    """Run every case of the groups asked for; returns their measurements by name."""
    measured = {}

    def take(name: str) -> None:
        measured[name] = measure(folder / "out/runs" / name)
        print(f"{name:28} {json.dumps(measured[name])}", flush=True)

    if group in (None, "pretrain", "heads", "methods"):
        for name, words in PRETRAIN.items():
            run_module(["pretrain", *TINY_ARGS, *words, f"run={name}"], folder)
            take(name)
    if group in (None, "heads"):
        for name, words in HEADS.items():
            run_module(["finetune", "configs/finetune/your-task.yaml", *LABELED_ARGS, *words, f"run={name}"], folder)
            take(name)
    if group in (None, "methods"):
        for name, words in METHODS.items():
            method = [] if name == "adapt" else [f"configs/method/{name}.yaml"]
            args = [*method, *LABELED_ARGS, "task.train.files=classes.csv", *words, f"run={name}"]
            run_module(["finetune", "configs/finetune/your-task.yaml", *args], folder)
            take(name)
    if group in (None, "processes"):
        for name in ("mlm", "contrastive"):
            args = [*TINY_ARGS, *OBJECTIVES[name], "model.architecture=bert", f"run={name}-two"]
            run_module(["pretrain", *args], folder, num_processes=2)
            take(f"{name}-two")
        resume(folder)
        take("resumed")
    if group in (None, "defaults"):
        steps = ["train.steps=40", "train.log_every=1"]
        run_module(["pretrain", "configs/pretrain/default.yaml", *steps, "run=default"], folder)
        take("default")
        args = ["configs/finetune/sentiment.yaml", "encoder=out/runs/default/encoder", *steps, "run=sentiment"]
        run_module(["finetune", *args], folder)
        take("sentiment")
    return measured


def main(args: list[str]) -> None:
    """Run the cases; write and compare their measurements as asked."""
    own = dict(word.split("=", 1) for word in args)
    folder = ROOT / "out/benchmarks/same_numbers"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    cache = ROOT / "out/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "out/cache").symlink_to(cache)
    (folder / "configs").symlink_to(ROOT / "configs")
    write_data(folder)
    measured = run_cases(folder, own.get("group"))
    if "write" in own:
        Path(own["write"]).write_text(json.dumps(measured, indent=1))
    if "compare" in own:
        before = json.loads(Path(own["compare"]).read_text())
        differing = [name for name in measured if measured[name] != before.get(name)]
        print(
            f"{len(measured) - len(differing)} of {len(measured)} cases identical"
            + (f"; different: {', '.join(differing)}" if differing else "")
        )
        sys.exit(bool(differing))


if __name__ == "__main__":
    main(sys.argv[1:])
