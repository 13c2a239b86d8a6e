"""Fine-tuning beside transformers' `Trainer`: encoder, labels, batch and number of steps the same.

    python benchmarks/trainer.py [task=sentiment] [labels=500] [seeds=3] [threads=N] [key=value ...]

Theirs: AutoModelForSequenceClassification, padded to the longest of the batch, `TrainingArguments` as they come but for the
batch and the steps, which are ours (ours by default: 10 passes over the labels, 16 at a time). Ours: `make finetune`'s
settings, the last weights kept, no validation label used. Each run is a process of its own; contenders take turns; seconds
are of training alone, without loading and predicting. Without `threads` each has all cores and lets its threads wait as it
does by itself; with it they have so many, which sleep when they wait. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
OPTIONS = ("task", "labels", "seeds", "threads")
CONTENDERS = ("ours", "Trainer")


def load_config(options: dict[str, str], seed: int, args: list[str]):
    """The fine-tuning configuration all contenders follow."""
    from engine.config.loader import load_config
    from finetune.config import Finetune

    return load_config(
        Finetune,
        [
            f"configs/finetune/{options['task']}.yaml",
            "encoder=minilm",
            f"task.num_examples={options['labels']}",
            f"seed={seed}",
            "train.load_best=false",
            "baselines=false",
            *args,
            f"run=trainer-{options['task']}-{seed}-{os.getpid()}",
        ],
    )


def run_headstart(config) -> dict[str, float]:
    """{"accuracy", "seconds"} of ours; its folder is removed."""
    import contextlib
    import io
    import shutil

    from engine.runs.run import RUNS_FOLDER
    from finetune.train import finetune

    folder = RUNS_FOLDER / config.run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"accuracy": metrics["test"]["accuracy"], "seconds": metrics["seconds"], "steps": metrics["steps"]}


def run_hf_trainer(config) -> dict[str, float]:
    """{"accuracy", "seconds"} of transformers' Trainer."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from data.encoders import resolve_encoder
    from data.tasks.task import list_label_names, read_task, sample_examples
    from finetune.train import resolve_config

    folder = resolve_encoder("minilm")
    rows = read_task(config.task)
    names = list_label_names(config.task, rows)
    few = sample_examples(rows["train"], config.task.labels, config.seed)
    steps = resolve_config(config, "minilm", folder, len(few)).train.steps
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tables = {
        split: Dataset.from_list(
            [
                {
                    **tokenizer(*example.texts, truncation=True, max_length=config.max_length),
                    "label": names.index(example.label),
                }
                for example in examples
            ]
        )
        for split, examples in (("train", few), ("test", rows["test"]))
    }
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            max_steps=steps,
            per_device_train_batch_size=config.train.batch_size,
            seed=config.seed,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names))
        trainer = Trainer(
            model,
            arguments,
            train_dataset=tables["train"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        began = time.time()
        trainer.train()
        seconds = time.time() - began
        said = trainer.predict(tables["test"])
    return {
        "accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean()),
        "seconds": seconds,
        "steps": steps,
    }


def main(args: list[str]) -> None:
    """Take turns, print as it goes, write the section."""
    own = {"task": "sentiment", "labels": "500", "seeds": "3"}
    own |= dict(word.split("=", 1) for word in args if word.partition("=")[0] in OPTIONS)
    rest = [word for word in args if word.partition("=")[0] not in OPTIONS]
    waits = {"OMP_NUM_THREADS": own["threads"], "OMP_WAIT_POLICY": "PASSIVE"} if "threads" in own else {}
    found: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for seed in range(int(own["seeds"])):
        for name in CONTENDERS if seed % 2 == 0 else CONTENDERS[::-1]:
            done = subprocess.run(
                [sys.executable, __file__, "cell", name, str(seed), json.dumps(own), *rest],
                text=True,
                capture_output=True,
                env=os.environ | waits,
            )
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, seed, found[name][-1], flush=True)
    import numpy as np
    import results

    ratio = statistics.median(them["seconds"] / us["seconds"] for us, them in zip(found["ours"], found["Trainer"]))
    lines = ["| | seconds of training, median | test accuracy, mean | each |", "|---|---|---|---|"]
    for name, runs in found.items():
        accuracies = [each["accuracy"] for each in runs]
        lines.append(
            f"| {name} | {statistics.median(each['seconds'] for each in runs):.1f} | {np.mean(accuracies):.4f}"
            f" | {', '.join(f'{each:.3f}' for each in accuracies)} |"
        )
    lines.append(
        f"\n{found['ours'][0]['steps']} steps of {own['labels']} labels; Trainer takes {ratio:.2f} times as long"
        f" (median of {own['seeds']} pairs of runs), {own.get('threads', os.cpu_count())} threads."
    )
    results.write_section(
        f"Fine-tuning beside Trainer: {own['task']}, {own['labels']} labels",
        f"python benchmarks/trainer.py {' '.join(args)}".strip(),
        "\n".join(lines),
    )
    print("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["cell"]:
        from engine.system import openmp

        name, seed, own = sys.argv[2:5]
        if name == "ours":
            openmp.set_wait_policy(training=True)
        config = load_config(json.loads(own), int(seed), sys.argv[5:])
        print(json.dumps({"ours": run_headstart, "Trainer": run_hf_trainer}[name](config)))
    else:
        main(sys.argv[1:])
