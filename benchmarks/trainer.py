"""Compare fine-tuning with transformers' `Trainer`: encoder, labels, batch size and number of steps are the same.

    python benchmarks/trainer.py [task=sentiment] [labels=500] [seeds=3] [threads=N] [key=value ...]

Trainer: AutoModelForSequenceClassification, dynamic padding, default `TrainingArguments` except for the batch size and
the number of steps, which are ours (by default 10 epochs of batches of 16). Ours: the settings of `make finetune` with
the last weights and without validation labels. Contenders alternate, each run a process; seconds are those of training,
without loading and prediction. Without `threads` a run uses all cores and its own wait policy; with it, so many threads
that sleep while they wait. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import results

from engine.models import LOAD_WEIGHTS_KWARGS

CONTENDERS = ("ours", "Trainer")


def load_config(options: dict[str, str], seed: int, args: list[str]):
    """Return the fine-tuning configuration of all contenders."""
    from engine.config.loader import load_config
    from finetune.config import Finetune

    task, labels = options["task"], options["labels"]
    fixed = [
        "encoder=minilm",
        f"task.num_examples={labels}",
        f"seed={seed}",
        "method=none",
        "train.load_best=false",
        "baselines=false",
    ]
    run = f"run=trainer-{task}-{seed}-{os.getpid()}"
    return load_config(Finetune, [f"configs/finetune/{task}.yaml", *fixed, *args, run])


def run_headstart(config) -> dict[str, float]:
    """Return {"accuracy", "seconds", "steps"} of ours and remove the run."""
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
    """Return {"accuracy", "seconds", "steps"} of transformers' Trainer."""
    import torch
    import transformers as hf
    from datasets import Dataset

    from data.encoders import resolve_encoder
    from data.tasks.task import list_label_names, read_task, sample_examples
    from finetune.train import resolve_config

    folder = resolve_encoder("minilm")
    rows = read_task(config.task)
    names = list_label_names(config.task, rows)
    train = sample_examples(rows["train"], config.task.num_examples, config.seed)
    steps = resolve_config(config, "minilm", folder, len(train)).train.steps
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def encode(examples: list) -> Dataset:
        options = {"truncation": True, "max_length": config.max_length}
        return Dataset.from_list(
            [{**tokenizer(*each.texts, **options), "label": names.index(each.label)} for each in examples]
        )

    train_dataset, test_dataset = encode(train), encode(rows["test"])
    with tempfile.TemporaryDirectory() as output:
        arguments = hf.TrainingArguments(
            output,
            max_steps=steps,
            per_device_train_batch_size=config.train.batch_size,
            seed=config.seed,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
        )
        trainer = hf.Trainer(
            hf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names), **LOAD_WEIGHTS_KWARGS),
            arguments,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=hf.DataCollatorWithPadding(tokenizer),
        )
        start = time.time()
        trainer.train()
        seconds = time.time() - start
        output = trainer.predict(test_dataset)
    accuracy = float((output.predictions.argmax(-1) == output.label_ids).mean())
    return {"accuracy": accuracy, "seconds": seconds, "steps": steps}


def run_trial(contender: str, seed: int, options: dict[str, str], args: list[str]) -> None:
    """Run one contender and print its result."""
    from engine.system import openmp

    if contender == "ours":
        openmp.set_wait_policy(training=True)
    config = load_config(options, seed, args)
    print(json.dumps(run_headstart(config) if contender == "ours" else run_hf_trainer(config)))


def main(args: list[str]) -> None:
    """Run the benchmark, or with `trial` one contender."""
    if args[:1] == ["trial"]:
        return run_trial(args[1], int(args[2]), json.loads(args[3]), args[4:])
    options, rest = results.parse_options(args, task="sentiment", labels="500", seeds="3", threads=None)
    threads = options["threads"]
    environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"} if threads else {}
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for seed in range(int(options["seeds"])):
        for name in CONTENDERS if seed % 2 == 0 else CONTENDERS[::-1]:
            done = subprocess.run(
                [sys.executable, __file__, "trial", name, str(seed), json.dumps(options), *rest],
                text=True,
                capture_output=True,
                env=os.environ | environment,
            )
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, seed, runs[name][-1], flush=True)
    lines = ["| | median seconds of training | mean test accuracy | accuracies |", "|---|---|---|---|"]
    for name, trials in runs.items():
        seconds, accuracies = ([trial[key] for trial in trials] for key in ("seconds", "accuracy"))
        mean, each = f"{statistics.mean(accuracies):.4f}", ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        lines.append(f"| {name} | {statistics.median(seconds):.1f} | {mean} | {each} |")
    pairs = zip(*runs.values(), strict=True)
    ratio = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    lines.append(
        f"\n{runs['ours'][0]['steps']} steps on {options['labels']} labels; Trainer takes {ratio:.2f} times as long"
        f" (median of {options['seeds']} pairs of runs), {threads or os.cpu_count()} threads."
    )
    title = f"Fine-tuning, compared with Trainer: {options['task']}, {options['labels']} labels"
    results.write_section(title, " ".join(["python benchmarks/trainer.py", *args]), "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
