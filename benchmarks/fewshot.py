"""Few labels: ours beside SetFit, encoder, texts, labels and seeds the same.

    pip install --no-deps setfit==1.2.0
    python benchmarks/fewshot.py [who=setfit,fewshot,selftrain] [tasks=...] [shots=8,16,64] [seeds=5] [threads=1] [at_once=1]
        [data=FOLDER] [cells=out/fewshot]

A cell is one of `who` with one task, so many labels a class and one seed. It runs in a process of its own, `at_once` of
them at a time, and is kept in `cells` (by itself out/fewshot, on a GPU out/fewshot/gpu), so that a benchmark that was
stopped goes on where it was, and cells of another machine are told with `seeds=0`. fewshot and selftrain are
configs/adapt's, without and with the other training rows as texts without labels. SetFit's own settings, but for its pairs:
20 for each label, the paper's, where its default would be more (which grows with the square of the labels). Nobody uses a
validation label. `data`: a folder with trec/, subj/ and banking77/, each train.csv and test.csv; banking77 at 8 a class
only. 2,000 test texts of imdb, the same for all. `learning` is the seconds from the labels to the model, without loading
and predicting the test texts, which all have in common; all that the process computed is told beside it. Writes its section
of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CACHE_FOLDER = ROOT / "out" / "fewshot"
COLUMNS = {"trec": ("text", "label"), "subj": ("text", "label"), "banking77": ("text", "category")}
CONTENDERS = ("setfit", "fewshot", "selftrain")
PAIRS_PER_EXAMPLE = 20
MAX_TEST_TEXTS = 2_000
SAVE_STEPS = 200  # steps of SetFit


def cache_folder() -> Path:
    """Where the cells of this kind of machine are."""
    import torch

    return CACHE_FOLDER / "gpu" if torch.cuda.is_available() else CACHE_FOLDER


def subsampled_task_args(task: str) -> list[str]:
    """The configuration of a built-in task with no more than `MAX_TEST_TEXTS` test texts, from files written once."""
    import csv
    import random

    from data.tasks.task import read_task
    from engine.config.loader import load_config
    from engine.files import write_folder
    from finetune.config import Finetune

    folder = CACHE_FOLDER / task
    if not folder.is_dir():
        rows = read_task(load_config(Finetune, [f"configs/finetune/{task}.yaml"]).task)

        def fill(path: Path) -> None:
            for split, examples in (
                ("train", rows["train"]),
                ("test", random.Random(0).sample(rows["test"], MAX_TEST_TEXTS)),
            ):
                with open(path / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(
                        [("text", "label"), *((example.texts[0], example.label) for example in examples)]
                    )

        write_folder(folder, fill)
    return file_task_args(task, folder, "text", "label")


def file_task_args(task: str, folder: Path, text_column: str, label_column: str) -> list[str]:
    """The configuration of a task in train.csv and test.csv."""
    return [
        "configs/finetune/default.yaml",
        f"task.name={task}",
        f"task.train.files={folder}/train.csv",
        f"task.test.files={folder}/test.csv",
        f"task.text={text_column}",
        f"task.label={label_column}",
    ]


def task_args(task: str, shots: int, seed: int, data_folder: str) -> list[str]:
    """The configuration of a task, and of the labels taken."""
    if task in COLUMNS:
        words = file_task_args(task, Path(data_folder) / task, *COLUMNS[task])
    else:
        words = subsampled_task_args(task) if task == "imdb" else [f"configs/finetune/{task}.yaml"]
    return [*words, f"task.shots={shots}", f"seed={seed}", "encoder=minilm"]


def run_setfit(args: list[str]) -> tuple[float, float, float]:
    """(test accuracy of SetFit with the labels the configuration takes, seconds of learning, of computing in processes before).

    It saves as it does by itself, if more often, and one that was stopped goes on from there: its largest cells take hours.
    """
    from functools import partial

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
    few = sample_examples(rows["train"], "all", config.seed, config.task.shots)
    tables = {
        split: Dataset.from_dict(
            {
                "text": ["\n".join(example.texts) for example in examples],
                "label": [names.index(example.label) for example in examples],
            }
        )
        for split, examples in (("train", few), ("test", rows["test"]))
    }
    many = len(few) > 2 * PAIRS_PER_EXAMPLE  # the default takes some n^2 pairs of n labels, this 2 * PAIRS_A_LABEL * n
    folder = cache_folder() / "setfit" / f"{config.task.name}-{config.task.shots}-{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    whole = sorted(
        folder.glob("checkpoint-*/seconds.json"), key=lambda path: path.stat().st_mtime
    )  # which is written last
    before = json.loads(whole[-1].read_text()) if whole else {"learning": 0.0, "computing": 0.0}
    arguments = TrainingArguments(
        seed=config.seed,
        report_to="none",
        save_steps=SAVE_STEPS,
        output_dir=str(folder),
        num_iterations=PAIRS_PER_EXAMPLE if many else None,
    )
    trainer = Trainer(
        model=SetFitModel.from_pretrained(str(resolve_encoder("minilm"))), args=arguments, train_dataset=tables["train"]
    )

    class Seconds(TrainerCallback):
        def on_save(self, arguments, state, control, **rest) -> None:
            write_json(
                folder / f"checkpoint-{state.global_step}" / "seconds.json",
                {
                    "learning": before["learning"] + time.time() - began,
                    "computing": before["computing"] + time.process_time(),
                },
            )

    trainer.add_callback(Seconds())
    trainer.st_trainer.train = partial(
        trainer.st_trainer.train, resume_from_checkpoint=str(whole[-1].parent) if whole else None
    )
    began = time.time()
    trainer.train()
    seconds = before["learning"] + time.time() - began
    predicted = trainer.model.predict(tables["test"]["text"][:], as_numpy=True)
    shutil.rmtree(folder)
    return float((predicted == tables["test"]["label"][:]).mean()), seconds, before["computing"]


def run_headstart(method: str, args: list[str]) -> tuple[float, float, float]:
    """(test accuracy of configs/method/`method`.yaml, seconds of learning, 0); the run's folder is removed."""
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    config = load_config(
        Finetune, [*args, f"configs/method/{method}.yaml", "baselines=false", f"run=fewshot-{os.getpid()}"]
    )
    folder = RUNS_FOLDER / config.run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics["test"]["accuracy"], metrics["seconds"], 0.0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_trial(contender: str, task: str, shots: str, seed: str, data_folder: str, *args: str) -> None:
    """Run one cell and print what it found."""
    began, used = time.time(), time.process_time()
    args = [*task_args(task, int(shots), int(seed), data_folder), *args]
    accuracy, learning, computed = run_setfit(args) if contender == "setfit" else run_headstart(contender, args)
    print(
        json.dumps(
            {
                "accuracy": accuracy,
                "learning": learning,
                "seconds": time.time() - began,
                "cpu_seconds": computed + time.process_time() - used,
            }
        )
    )


def results_table(folder: Path) -> str:
    """All cells that are in `folder`, by task and labels a class, with the mean of each size and of all; over the seeds all of
    `CONTENDERS` have.
    """
    import numpy as np

    found: dict[int, dict[str, dict[str, dict[int, dict]]]] = {}
    for path in sorted(folder.glob("*.json")):
        who, task, shots, seed = path.stem.split("-")
        found.setdefault(int(shots), {}).setdefault(task, {}).setdefault(who, {})[int(seed)] = json.loads(
            path.read_text()
        )
    lines = [
        "| task | labels a class | seeds | "
        + " | ".join(CONTENDERS)
        + " | seconds of learning | of computing in all |",
        "|---" * (len(CONTENDERS) + 5) + "|",
    ]
    every: list[dict] = []

    def mean(of: list[dict], shots: int | str) -> None:
        whole = {figure: np.mean([each[figure] for each in of], axis=0) for figure in of[0]}
        lines.append(table_row("**mean**", shots, "", [f"**{each:.3f}**" for each in whole["accuracy"]], whole))

    for shots, tasks in sorted(found.items()):
        means = []
        for task, ways in sorted(tasks.items()):
            seeds = sorted(set.intersection(*(set(ways.get(who, {})) for who in CONTENDERS)))
            if not seeds:
                continue
            told = {
                figure: np.array([[ways[who][seed][figure] for seed in seeds] for who in CONTENDERS])
                for figure in ("accuracy", "learning", "cpu_seconds")
            }
            means.append({figure: each.mean(1) for figure, each in told.items()})
            spread = [
                f"{each.mean():.3f} ± {each.std(ddof=1):.3f}" if len(seeds) > 1 else f"{each.mean():.3f}"
                for each in told["accuracy"]
            ]
            lines.append(table_row(task, shots, len(seeds), spread, means[-1]))
        if means:
            mean(means, shots)
            every += means
    if every:
        mean(every, "all lines")
    return "\n".join(lines) + "\n\nAfter ± the standard deviation over seeds."


def table_row(
    task: str, shots: int, num_seeds: int | str, accuracies: list[str], means: dict[str, Sequence[float]]
) -> str:
    """A line of the table."""
    seconds = [", ".join(f"{each:.0f}" for each in means[figure]) for figure in ("learning", "cpu_seconds")]
    return f"| {' | '.join(map(str, [task, shots, num_seeds, *accuracies, *seconds]))} |"


def main(args: list[str]) -> None:
    """Run what is not there yet, and write the table of what there is."""
    from concurrent.futures import ThreadPoolExecutor

    import results

    own = dict(word.split("=", 1) for word in args)
    threads, at_once = own.get("threads", "1"), int(own.get("at_once", 1))
    folder = Path(own["cells"]) if "cells" in own else cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    where = folder / "machine.txt"
    if not where.is_file():
        where.write_text(results.describe_machine(), encoding="utf-8")

    def run(asked: tuple[str, str, str, str]) -> None:
        path = folder / f"{'-'.join(asked)}.json"
        if path.is_file() or asked[1] == "banking77" and asked[2] != "8":
            return
        done = subprocess.run(
            [sys.executable, __file__, "cell", *asked, own.get("data", "")],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        if done.returncode:
            sys.exit(f"{path.stem}: {done.stderr[-2000:]}")
        path.write_text(done.stdout.strip().splitlines()[-1])
        print(path.stem, path.read_text(), flush=True)

    asked = [
        (who, task, shots, str(seed))
        for shots in own.get("shots", "8,16,64").split(",")
        for seed in range(int(own.get("seeds", 5)))
        for task in own.get("tasks", "sentiment,spam,subj,trec,topics,imdb,banking77").split(",")
        for who in own.get("who", ",".join(CONTENDERS)).split(",")
    ]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, asked))
    told = (
        results_table(folder)
        + f" {threads} thread{'s' * (threads != '1')} a cell, {at_once} cell{'s' * (at_once > 1)} at a time."
    )
    results.write_section(
        f"Few labels, beside SetFit{', on a GPU' * (folder.name == 'gpu')}",
        f"python benchmarks/fewshot.py data=FOLDER{f' at_once={at_once}' * (at_once > 1)}",
        told,
        where.read_text(encoding="utf-8"),
    )
    print(told)


if __name__ == "__main__":
    run_trial(*sys.argv[2:]) if sys.argv[1:2] == ["cell"] else main(sys.argv[1:])
