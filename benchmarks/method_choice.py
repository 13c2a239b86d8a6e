"""Compare the methods for few labels on many tasks, and fit the rule of `method=auto` on the results.

    python benchmarks/method_choice.py [tasks=...] [shots=8,32,2,128] [seeds=1] [data=FOLDER]

A trial is one method, task, number of labels per class and seed. Finished ones are lines of
benchmarks/method_choice_trials.jsonl, so the benchmark resumes, and `seeds=0` only writes the table. No test row is
read: EVALUATED_ROWS training rows are set aside for the accuracy, the sample of a seed is labeled, and at most
UNLABELED_ROWS others are unlabeled text. Texts are cut at MAX_LENGTH tokens, which makes long ones affordable.

The rule chooses between methods by the labels per class and the number of classes: for each number of labels, the
method with the highest mean on tasks of few classes and that on tasks of many. It is fitted without the task that it is
then applied to, in turn for each task, and compared with the rule that ships (`finetune.method`). data: the folder with
trec/, subj/ and banking77/ (benchmarks/tasks.py).
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import random
import shutil
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import results
import tasks

TRIALS_FILE = Path(__file__).parent / "method_choice_trials.jsonl"
TASKS = (
    *("sentiment", "spam", "subj", "trec", "tweets", "elections", "descriptions", "sections", "banking77"),
    *("products", "editorials", "topics", "articles", "newsgroups", "imdb"),
)
METHODS = {"probe": "fewshot-probe", "fewshot": "fewshot", "selftrain": "selftrain", "layerwise": "layerwise"}
MIN_SHOTS = {"layerwise": 8}  # fewer leave no rows for validation
EVALUATED_ROWS, UNLABELED_ROWS, MAX_LENGTH = 500, 2_000, 64
CLASS_LIMITS = (2, 4, 8, 16, 32)
FOLDER = results.ROOT / "out" / "benchmarks" / "method-choice"


def read_rows(task: str, data_folder: str) -> list[dict[str, str]]:
    """Return the training rows of a task."""
    tasks.task_args(task, data_folder)
    with open(tasks.FOLDER / task / "train.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_splits(rows: list[dict[str, str]], shots: int, seed: int, folder: Path) -> list[str]:
    """Write train.csv, where most labels are empty, and test.csv; return the arguments that read them."""
    rows = random.Random(seed).sample(rows, len(rows))
    evaluated, pool = rows[:EVALUATED_ROWS], rows[EVALUATED_ROWS:]
    counts, labeled, unlabeled = defaultdict(int), [], []
    for row in pool:
        counts[row["label"]] += 1
        (labeled if counts[row["label"]] <= shots else unlabeled).append(row)
    known = {row["label"] for row in labeled}
    unlabeled = [row | {"label": ""} for row in unlabeled[:UNLABELED_ROWS]]
    evaluated = [row for row in evaluated if row["label"] in known]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", labeled + unlabeled), ("test", evaluated)):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("text", "label"))
            writer.writeheader()
            writer.writerows(part)
    files = [f"task.{split}.files={folder}/{split}.csv" for split in ("train", "test")]
    return [*files, "task.text=text", "task.label=label", "task.num_examples=all"]


def run_trial(method: str, task: str, shots: int, seed: int, rows: list[dict[str, str]]) -> dict:
    """Return {"accuracy": percent, "seconds": of training, "classes", "words": mean length of a text}."""
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    name = f"method-choice-{os.getpid()}"
    try:
        args = ["configs/finetune/default.yaml", f"task.name={task}", *write_splits(rows, shots, seed, FOLDER / name)]
        args += ["encoder=minilm", f"max_length={MAX_LENGTH}", "baselines=false", f"method={METHODS[method]}"]
        args += [f"seed={seed}", f"run={name}"]
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(load_config(Finetune, args), args)
        metrics = json.loads((RUNS_FOLDER / name / "metrics.json").read_text(encoding="utf-8"))
    finally:
        for path in (RUNS_FOLDER / name, FOLDER / name):
            shutil.rmtree(path, ignore_errors=True)
    words = float(np.mean([len(row["text"].split()) for row in rows[:1_000]]))
    found = {"accuracy": round(100 * metrics["test"]["accuracy"], 2), "seconds": metrics["seconds"]}
    return found | {"classes": len({row["label"] for row in rows}), "words": round(words, 1)}


def read_trials() -> dict[tuple, dict]:
    """Return the finished trials by (method, task, labels per class, seed)."""
    lines = TRIALS_FILE.read_text(encoding="utf-8").splitlines() if TRIALS_FILE.is_file() else []
    return {(each["method"], each["task"], each["shots"], each["seed"]): each for each in map(json.loads, lines)}


def run_missing(options: dict[str, str]) -> None:
    """Run the trials that are not finished, and append each to the file."""
    finished, rows = set(read_trials()), {}
    for seed, shots, task, method in itertools.product(
        range(int(options["seeds"])), map(int, options["shots"].split(",")), options["tasks"].split(","), METHODS
    ):
        if (method, task, shots, seed) in finished or shots < MIN_SHOTS.get(method, 0):
            continue
        rows[task] = rows.get(task) or read_rows(task, options["data"])
        trial = {"method": method, "task": task, "shots": shots, "seed": seed}
        trial |= run_trial(**trial, rows=rows[task]) | {"date": str(date.today())}
        with open(TRIALS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(trial) + "\n")
        print(method, task, shots, seed, trial["accuracy"], f"{trial['seconds']:.0f} s", flush=True)


class Cell:
    """The mean accuracy of each method on one task with one number of labels per class."""

    def __init__(self, task: str, shots: int, trials: list[dict]):
        self.task, self.shots, self.num_classes = task, shots, trials[0]["classes"]
        self.seeds = len({trial["seed"] for trial in trials})
        by_method = {name: [trial["accuracy"] for trial in trials if trial["method"] == name] for name in METHODS}
        self.accuracy = {name: float(np.mean(values)) for name, values in by_method.items() if values}


def list_cells(trials: dict[tuple, dict]) -> list[Cell]:
    """List the cells in which all methods have run, by labels per class and task."""
    keys = sorted({(key[2], key[1]) for key in trials}, key=lambda key: (key[0], TASKS.index(key[1])))
    cells = [
        Cell(task, shots, [each for key, each in trials.items() if key[1:3] == (task, shots)]) for shots, task in keys
    ]
    return [
        cell for cell in cells if all(name in cell.accuracy or cell.shots < MIN_SHOTS.get(name, 0) for name in METHODS)
    ]


def fit_rule(cells: list[Cell], methods: tuple[str, ...], limit: int) -> dict[tuple[int, bool], str]:
    """Return the best method for each (labels per class, whether there are more classes than `limit`)."""
    rule, shots = {}, sorted({cell.shots for cell in cells})
    for size, has_many in itertools.product(shots, (False, True)):
        same = [cell for cell in cells if cell.shots == size and (cell.num_classes > limit) == has_many]
        same = same or [cell for cell in cells if cell.shots == size]
        known = [name for name in methods if all(name in cell.accuracy for cell in same)]
        rule[size, has_many] = max(known, key=lambda name: np.mean([cell.accuracy[name] for cell in same]))
    return rule


def apply_fitted(cells: list[Cell], methods: tuple[str, ...], limit: int) -> list[float]:
    """Return the accuracy of each cell by the rule fitted on the other tasks."""
    accuracies = []
    for cell in cells:
        rule = fit_rule([other for other in cells if other.task != cell.task], methods, limit)
        chosen = rule[cell.shots, cell.num_classes > limit]
        accuracies.append(cell.accuracy.get(chosen, float("nan")))
    return accuracies


def apply_shipped(cell: Cell, num_unlabeled: int) -> float:
    """Return the accuracy of a cell by the rule that ships."""
    from engine.config.loader import load_config
    from finetune.config import Finetune
    from finetune.method import choose_method

    config = load_config(Finetune, ["configs/finetune/sentiment.yaml", "run=none"])
    choice = choose_method(config, cell.shots * cell.num_classes, cell.num_classes, num_unlabeled)
    return cell.accuracy[next(name for name, file in METHODS.items() if file == choice.method)]


def compare_rules(cells: list[Cell], methods: tuple[str, ...], num_unlabeled: int) -> list[list[str]]:
    """Return rows of (rule, mean accuracy) for the methods that may be chosen."""
    found = {f"only {name}": [cell.accuracy.get(name, float("nan")) for cell in cells] for name in methods}
    found["the rule that ships"] = [apply_shipped(cell, num_unlabeled) for cell in cells]
    for limit in CLASS_LIMITS:
        rule = fit_rule(cells, methods, limit)
        parts = [f"{size}: {rule[size, False]} / {rule[size, True]}" for size in sorted({cell.shots for cell in cells})]
        title = f"fitted, up to {limit} classes / more ({', '.join(parts)})"
        found[title] = apply_fitted(cells, methods, limit)
    found["the best of each task"] = [
        max(cell.accuracy[name] for name in methods if name in cell.accuracy) for cell in cells
    ]
    return [[title, "" if np.isnan(values).any() else f"{np.mean(values):.1f}"] for title, values in found.items()]


def write_results() -> None:
    """Write the table of the trials and the comparison of the rules."""
    cells = list_cells(read_trials())
    rows = [
        [cell.task, str(cell.shots), str(cell.num_classes), str(cell.seeds)]
        + [f"{cell.accuracy[name]:.1f}" if name in cell.accuracy else "" for name in METHODS]
        for cell in cells
    ]
    for size in sorted({cell.shots for cell in cells}):
        same = [cell for cell in cells if cell.shots == size]
        means = [np.mean([cell.accuracy.get(name, np.nan) for cell in same]) for name in METHODS]
        rows.append(
            [f"**mean of {len(same)}**", str(size), "", "", *("" if np.isnan(m) else f"{m:.1f}" for m in means)]
        )
    text = f"Accuracy in percent on {EVALUATED_ROWS} training rows that are not labeled.\n\n"
    text += results.markdown_table(["task", "labels per class", "classes", "seeds", *METHODS], rows)
    for title, num_unlabeled in (("With unlabeled text", UNLABELED_ROWS), ("Without it", 0)):
        methods = tuple(name for name in METHODS if num_unlabeled or name != "selftrain")
        table = results.markdown_table(["rule", "mean accuracy"], compare_rules(cells, methods, num_unlabeled))
        text += f"\n\n{title}, each fitted rule on the task that it was not fitted on:\n\n{table}"
    results.write_section("The choice of a method", "python benchmarks/method_choice.py data=FOLDER", text)
    print(text)


def main(args: list[str]) -> None:
    """Run the missing trials and write the tables."""
    defaults = {"tasks": ",".join(TASKS), "shots": "8,32,2,128", "seeds": "1", "data": ""}
    options, _ = results.parse_options(args, **defaults)
    run_missing(options)
    write_results()


if __name__ == "__main__":
    main(sys.argv[1:])
