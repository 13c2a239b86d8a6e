"""Compare few-shot fine-tuning with SetFit: encoder, texts, labels and seeds are the same.

    pip install --no-deps setfit==1.2.0
    python benchmarks/fewshot.py [contenders=setfit,fewshot,selftrain] [tasks=...] [shots=8,16,64] [seeds=5] [threads=1]
                                 [at_once=1] [data=FOLDER] [folder=out/fewshot]

A trial is one contender, task, number of labels per class and seed. Each runs in its own process, `at_once` of them in
parallel, and is cached in `folder` (default: out/fewshot, on a GPU out/fewshot/gpu), so an interrupted benchmark
resumes; `seeds=0` only writes the table of trials from another machine. fewshot and selftrain are the configurations
of configs/method; the latter also uses the other training rows as unlabeled text. SetFit runs at its defaults except
for its pairs: 20 per label, as in the paper, where the default would be more (it grows with the square of the labels).
Validation labels are not used. data: a folder with trec/, subj/ and banking77/, each with train.csv and test.csv;
banking77 is used with 8 labels per class only. imdb is tested on 2,000 fixed texts. Training seconds exclude loading
and predicting the test texts; CPU seconds of the whole process are listed too. Writes its section of
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import results

CACHE_FOLDER = results.ROOT / "out" / "fewshot"
COLUMNS = {"trec": ("text", "label"), "subj": ("text", "label"), "banking77": ("text", "category")}
CONTENDERS = ("setfit", "fewshot", "selftrain")
PAIRS_PER_EXAMPLE = 20
MAX_TEST_TEXTS = 2_000
SAVE_STEPS = 200  # SetFit's checkpoints


def cache_folder() -> Path:
    """Return the folder of the trials on this kind of machine."""
    import torch

    return CACHE_FOLDER / "gpu" if torch.cuda.is_available() else CACHE_FOLDER


def subsampled_task_args(task: str) -> list[str]:
    """Return the arguments of a built-in task with at most `MAX_TEST_TEXTS` test texts, from files written once."""
    from data.tasks.task import read_task
    from engine.config.loader import load_config
    from engine.files import write_folder
    from finetune.config import Finetune

    folder = CACHE_FOLDER / task
    if not folder.is_dir():
        rows = read_task(load_config(Finetune, [f"configs/finetune/{task}.yaml"]).task)
        splits = {"train": rows["train"], "test": random.Random(0).sample(rows["test"], MAX_TEST_TEXTS)}

        def fill(path: Path) -> None:
            for split, examples in splits.items():
                lines = [("text", "label"), *((example.texts[0], example.label) for example in examples)]
                with open(path / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(lines)

        write_folder(folder, fill)
    return file_task_args(task, folder, "text", "label")


def file_task_args(task: str, folder: Path, text_column: str, label_column: str) -> list[str]:
    """Return the arguments of a task in train.csv and test.csv."""
    return [
        "configs/finetune/default.yaml",
        f"task.name={task}",
        f"task.train.files={folder}/train.csv",
        f"task.test.files={folder}/test.csv",
        f"task.text={text_column}",
        f"task.label={label_column}",
    ]


def task_args(task: str, shots: int, seed: int, data_folder: str) -> list[str]:
    """Return the arguments of a task and its labels."""
    if task in COLUMNS:
        args = file_task_args(task, Path(data_folder) / task, *COLUMNS[task])
    else:
        args = subsampled_task_args(task) if task == "imdb" else [f"configs/finetune/{task}.yaml"]
    return [*args, f"task.shots={shots}", f"seed={seed}", "encoder=minilm"]


def run_setfit(args: list[str]) -> tuple[float, float, float]:
    """Return (test accuracy, seconds of training, CPU seconds of interrupted processes) of SetFit.

    It resumes from its own checkpoints, which are more frequent than by default, since the largest trials take hours.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from transformers import TrainerCallback

    from data.encoders import resolve_encoder
    from data.tasks.task import list_label_names, read_task, sample_examples
    from engine.config.loader import load_config
    from engine.files import write_json
    from finetune.config import Finetune

    config = load_config(Finetune, [*args, "run=none"])
    rows = read_task(config.task)
    names = list_label_names(config.task, rows)
    train = sample_examples(rows["train"], "all", config.seed, config.task.shots)
    texts, labels, datasets = {}, {}, {}
    for split, examples in (("train", train), ("test", rows["test"])):
        texts[split] = ["\n".join(example.texts) for example in examples]
        labels[split] = [names.index(example.label) for example in examples]
        datasets[split] = Dataset.from_dict({"text": texts[split], "label": labels[split]})
    # The default is about n^2 pairs for n labels, this is 2 * PAIRS_PER_EXAMPLE * n.
    is_large = len(train) > 2 * PAIRS_PER_EXAMPLE
    folder = cache_folder() / "setfit" / f"{config.task.name}-{config.task.shots}-{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    # seconds.json is written last, so its checkpoint is complete.
    checkpoints = sorted(folder.glob("checkpoint-*/seconds.json"), key=lambda path: path.stat().st_mtime)
    before = json.loads(checkpoints[-1].read_text()) if checkpoints else {"train_seconds": 0.0, "cpu_seconds": 0.0}
    arguments = TrainingArguments(
        seed=config.seed,
        report_to="none",
        save_steps=SAVE_STEPS,
        output_dir=str(folder),
        num_iterations=PAIRS_PER_EXAMPLE if is_large else None,
    )
    model = SetFitModel.from_pretrained(str(resolve_encoder("minilm")), trust_remote_code=False)
    trainer = Trainer(model=model, args=arguments, train_dataset=datasets["train"])

    class TimeCallback(TrainerCallback):
        def on_save(self, args, state, control, **kwargs) -> None:
            times = {
                "train_seconds": before["train_seconds"] + time.time() - start,
                "cpu_seconds": before["cpu_seconds"] + time.process_time(),
            }
            write_json(folder / f"checkpoint-{state.global_step}" / "seconds.json", times)

    trainer.add_callback(TimeCallback())
    newest = str(checkpoints[-1].parent) if checkpoints else None
    trainer.st_trainer.train = partial(trainer.st_trainer.train, resume_from_checkpoint=newest)
    start = time.time()
    trainer.train()
    seconds = before["train_seconds"] + time.time() - start
    predictions = trainer.model.predict(texts["test"], as_numpy=True)
    shutil.rmtree(folder)
    return float((predictions == labels["test"]).mean()), seconds, before["cpu_seconds"]


def run_headstart(method: str, args: list[str]) -> tuple[float, float, float]:
    """Return (test accuracy, seconds of training, 0) of configs/method/`method`.yaml and remove the run."""
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    args = [*args, f"configs/method/{method}.yaml", "baselines=false", f"run=fewshot-{os.getpid()}"]
    config = load_config(Finetune, args)
    folder = RUNS_FOLDER / config.run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics["test"]["accuracy"], metrics["seconds"], 0.0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_trial(contender: str, task: str, shots: str, seed: str, data_folder: str, *extra_args: str) -> None:
    """Run one trial and print its result."""
    start, cpu_start = time.time(), time.process_time()
    args = [*task_args(task, int(shots), int(seed), data_folder), *extra_args]
    accuracy, seconds, cpu_before = run_setfit(args) if contender == "setfit" else run_headstart(contender, args)
    result = {"accuracy": accuracy, "train_seconds": seconds, "seconds": time.time() - start}
    print(json.dumps(result | {"cpu_seconds": cpu_before + time.process_time() - cpu_start}))


def results_table(folder: Path) -> str:
    """Return the table of all trials in `folder`, over the seeds that all contenders have, with means."""
    import numpy as np

    trials: dict[int, dict[str, dict[str, dict[int, dict]]]] = {}
    for path in sorted(folder.glob("*.json")):
        contender, task, shots, seed = path.stem.split("-")
        by_contender = trials.setdefault(int(shots), {}).setdefault(task, {})
        by_contender.setdefault(contender, {})[int(seed)] = json.loads(path.read_text())
    lines = [
        f"| task | labels per class | seeds | {' | '.join(CONTENDERS)} | seconds of training | CPU seconds |",
        "|---" * (len(CONTENDERS) + 5) + "|",
    ]

    def mean_row(rows: list[dict], shots: int | str) -> str:
        means = {key: np.mean([row[key] for row in rows], axis=0) for key in rows[0]}
        return table_row("**mean**", shots, "", [f"**{value:.3f}**" for value in means["accuracy"]], means)

    every: list[dict] = []
    for shots, tasks in sorted(trials.items()):
        means = []
        for task, runs in sorted(tasks.items()):
            seeds = sorted(set.intersection(*(set(runs.get(contender, {})) for contender in CONTENDERS)))
            if not seeds:
                continue
            values = {
                key: np.array([[runs[contender][seed][key] for seed in seeds] for contender in CONTENDERS])
                for key in ("accuracy", "train_seconds", "cpu_seconds")
            }
            means.append({key: each.mean(1) for key, each in values.items()})
            accuracies = [
                f"{scores.mean():.3f}" + (f" ± {scores.std(ddof=1):.3f}" if len(seeds) > 1 else "")
                for scores in values["accuracy"]
            ]
            lines.append(table_row(task, shots, len(seeds), accuracies, means[-1]))
        if means:
            lines.append(mean_row(means, shots))
            every += means
    if every:
        lines.append(mean_row(every, "all rows"))
    return "\n".join(lines) + "\n\nAfter ±: standard deviation over seeds."


def table_row(
    task: str, shots: int | str, num_seeds: int | str, accuracies: list[str], means: dict[str, Sequence[float]]
) -> str:
    """Return a row of the table."""
    seconds = [", ".join(f"{value:.0f}" for value in means[key]) for key in ("train_seconds", "cpu_seconds")]
    return f"| {' | '.join(map(str, [task, shots, num_seeds, *accuracies, *seconds]))} |"


def main(args: list[str]) -> None:
    """Run the missing trials and write the table."""
    from concurrent.futures import ThreadPoolExecutor

    defaults = {"contenders": ",".join(CONTENDERS), "tasks": "sentiment,spam,subj,trec,topics,imdb,banking77"}
    defaults |= {"shots": "8,16,64", "seeds": "5", "threads": "1", "at_once": "1", "data": ""}
    options, _ = results.parse_options(args, **defaults, folder=None)
    threads, at_once = options["threads"], int(options["at_once"])
    folder = Path(options["folder"]) if options["folder"] else cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    machine = folder / "machine.txt"
    if not machine.is_file():
        machine.write_text(results.describe_machine(), encoding="utf-8")

    def run(trial: tuple[str, str, str, str]) -> None:
        path = folder / f"{'-'.join(trial)}.json"
        if path.is_file() or trial[1] == "banking77" and trial[2] != "8":
            return
        done = subprocess.run(
            [sys.executable, __file__, "trial", *trial, options["data"]],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        if done.returncode:
            sys.exit(f"{path.stem}: {done.stderr[-2000:]}")
        path.write_text(done.stdout.strip().splitlines()[-1])
        print(path.stem, path.read_text(), flush=True)

    trials = [
        (contender, task, shots, str(seed))
        for shots in options["shots"].split(",")
        for seed in range(int(options["seeds"]))
        for task in options["tasks"].split(",")
        for contender in options["contenders"].split(",")
    ]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, trials))
    parallel = f"{threads} thread{'s' * (threads != '1')} per trial, {at_once} trial{'s' * (at_once > 1)} in parallel"
    text = f"{results_table(folder)} {parallel}."
    title = f"Few labels, compared with SetFit{', on a GPU' * (folder.name == 'gpu')}"
    command = f"python benchmarks/fewshot.py data=FOLDER{f' at_once={at_once}' * (at_once > 1)}"
    results.write_section(title, command, text, machine.read_text(encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["trial"]:
        run_trial(*sys.argv[2:])
    else:
        main(sys.argv[1:])
