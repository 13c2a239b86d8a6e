"""Compare few-label methods with SetFit: encoder, texts, labels, seeds and test rows are the same.

    python -m venv peer && peer/bin/pip install -r requirements.txt && peer/bin/pip install --no-deps setfit==1.2.0
    python benchmarks/fewshot.py [contenders=setfit,auto,...] [tasks=...] [shots=0,2,8,16] [seeds=3] [data=FOLDER]
                                 [python=peer/bin/python] [fastfit_python=fastfit/bin/python] [again=auto,...] [nice=0]

A trial is one contender, task, number of labels per class and seed, in its own process with one thread. Finished trials
are lines of benchmarks/fewshot_trials.jsonl, with the machine and date of each, so the benchmark resumes, also on
another machine; `again` repeats contenders, and `seeds=0` only writes the table, a section of benchmarks/RESULTS.md.

| contender | what it is |
|---|---|
| setfit | SetFit at its defaults, except for 20 pairs per label, as in its paper, where the default would be more |
| setfit_templates | the same, with the rows of `get_templated_dataset` added; without labels 8 a class, as documented |
| fastfit | benchmarks/fastfit_peer.py, in its own environment |
| name | without labels: the class with the name nearest to the text, by frozen embeddings |
| auto | `make finetune`, without unlabeled text |
| auto_unlabeled | the same, with the other training rows as unlabeled text |
| fewshot, selftrain, plain, probe | the files of configs/method; plain is `full` |

Validation labels are not used. Training seconds exclude loading and predicting the test texts. data: the folder with
trec/ and subj/ (benchmarks/tasks.py).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import results
import tasks

TRIALS_FILE = Path(__file__).parent / "fewshot_trials.jsonl"
TASKS = ("sentiment", "spam", "subj", "trec", "tweets", "elections", "sections", "descriptions")
CONTENDERS = ("setfit", "setfit_templates", "auto", "auto_unlabeled")
COLUMNS = (
    "name",
    "setfit_templates",
    "setfit",
    "fastfit",
    "auto",
    "auto_unlabeled",
    "probe",
    "plain",
    "fewshot",
    "selftrain",
)
SECTION = "Few labels and names of classes, compared with SetFit"
METHODS = {"plain": "full"}
PEERS = ("setfit", "setfit_templates")
NEED_LABELS = ("setfit", "fastfit", "auto")
PAIRS_PER_EXAMPLE = 20
ZERO_SHOT_ROWS = 8  # rows per class made of its name, without labels


def read_splits(args: list[str]) -> tuple:
    """Return (configuration, labeled rows, all training rows, test rows, names of the classes) of a trial."""
    from data.tasks.task import list_label_names, read_task, sample_examples
    from engine.config.loader import load_config
    from finetune.config import Finetune

    config = load_config(Finetune, [*args, "run=none"])
    rows = read_task(config.task)
    train = sample_examples(rows["train"], "all", config.seed, config.task.shots) if config.task.shots else []
    return config, train, rows["train"], rows["test"], list_label_names(config.task, rows)


def run_setfit(args: list[str], with_templates: bool) -> tuple[float, float]:
    """Return (test accuracy, seconds of training) of SetFit."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments, get_templated_dataset

    from data.encoders import resolve_encoder

    config, train, _, test, names = read_splits(args)
    columns = {"text": [row.texts[0] for row in train], "label": [names.index(row.label) for row in train]}
    dataset = Dataset.from_dict(columns) if train else Dataset.from_dict({})
    if with_templates:
        sizes = {} if train else {"sample_size": ZERO_SHOT_ROWS}
        dataset = get_templated_dataset(dataset if train else None, candidate_labels=names, **sizes)
    # The default is about n^2 pairs for n labels, this is 2 * PAIRS_PER_EXAMPLE * n.
    is_large = len(dataset) > 2 * PAIRS_PER_EXAMPLE
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            seed=config.seed,
            report_to="none",
            save_strategy="no",
            output_dir=folder,
            num_iterations=PAIRS_PER_EXAMPLE if is_large else None,
        )
        model = SetFitModel.from_pretrained(str(resolve_encoder("minilm")), trust_remote_code=False)
        trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
        start = time.time()
        trainer.train()
        seconds = time.time() - start
    predictions = trainer.model.predict([row.texts[0] for row in test], as_numpy=True)
    return float(np.mean(predictions == [names.index(row.label) for row in test])), seconds


def run_fastfit(args: list[str], python: str) -> tuple[float, float]:
    """Return (test accuracy, seconds of training) of FastFit, which `python` can import."""
    from data.encoders import resolve_encoder

    config, train, _, test, _ = read_splits(args)
    rows = {
        split: {"text": [row.texts[0] for row in examples], "label": [row.label for row in examples]}
        for split, examples in (("train", train), ("test", test))
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        script = str(Path(__file__).with_name("fastfit_peer.py"))
        command = [python, script, str(path), str(resolve_encoder("minilm")), str(config.seed)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["accuracy"], result["train_seconds"]


def run_nearest_name(args: list[str]) -> tuple[float, float]:
    """Return (test accuracy, seconds) of the class with the name nearest to the text, without training."""
    from data.encoders import resolve_encoder
    from data.tasks.class_names import name_to_words
    from data.tasks.task import Example
    from engine.training.distributed import make_accelerator
    from finetune.modalities import load_modality

    config, _, _, test, names = read_splits(args)
    modality, accelerator, folder = load_modality(config), make_accelerator("float32"), resolve_encoder("minilm")
    start = time.time()
    vectors, of_names = (
        modality.embed(rows, folder, accelerator)
        for rows in (test, [Example((name_to_words(name) or name,), name) for name in names])
    )
    of_names /= np.linalg.norm(of_names, axis=1, keepdims=True)
    correct = [names[index] == row.label for index, row in zip((vectors @ of_names.T).argmax(1), test, strict=True)]
    return float(np.mean(correct)), time.time() - start


def run_headstart(contender: str, args: list[str]) -> tuple[float, float]:
    """Return (test accuracy, seconds of training) of a method and remove the run."""
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    method, _, unlabeled = contender.partition("_")
    args = [*args, f"method={METHODS.get(method, method)}", "train.load_best=false", "baselines=false"]
    if method == "auto":
        args.append(f"unlabeled={str(bool(unlabeled)).lower()}")
    args.append(f"run=fewshot-{os.getpid()}")
    config = load_config(Finetune, args)
    folder = RUNS_FOLDER / config.run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config, args)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics["test"]["accuracy"], metrics["seconds"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_trial(contender: str, task: str, shots: str, seed: str, data_folder: str, fastfit_python: str) -> None:
    """Run one trial and print its result."""
    start, cpu_start = time.time(), time.process_time()
    args = [*tasks.task_args(task, data_folder), f"seed={seed}", "encoder=minilm"]
    args.append(f"task.shots={shots}" if int(shots) else "task.num_examples=0")
    if contender in PEERS:
        accuracy, seconds = run_setfit(args, contender == "setfit_templates")
    elif contender == "fastfit":
        accuracy, seconds = run_fastfit(args, fastfit_python)
    elif contender == "name":
        accuracy, seconds = run_nearest_name(args)
    else:
        accuracy, seconds = run_headstart(contender, args)
    result = {"accuracy": accuracy, "train_seconds": seconds, "seconds": time.time() - start}
    print(
        json.dumps({key: round(value, 4) for key, value in result.items()} | {"cpu": time.process_time() - cpu_start})
    )


def read_trials() -> dict[tuple, dict]:
    """Return the finished trials by (contender, task, labels per class, seed)."""
    lines = TRIALS_FILE.read_text(encoding="utf-8").splitlines() if TRIALS_FILE.is_file() else []
    return {(each["contender"], each["task"], each["shots"], each["seed"]): each for each in map(json.loads, lines)}


def results_table(trials: dict[tuple, dict], shots: int, columns: list[str]) -> list[list[str]]:
    """Return the rows of one number of labels per class, with the mean of the tasks."""
    tasks_run = sorted({key[1] for key in trials if key[2] == shots})
    means: dict[tuple[str, str], np.ndarray] = {}
    rows = []
    for task in tasks_run:
        runs = {name: [trial for key, trial in trials.items() if key[:3] == (name, task, shots)] for name in columns}
        num_seeds, cells = max(map(len, runs.values())), []
        for name, each in runs.items():
            if each:
                means[name, task] = np.mean([[run["accuracy"], run["train_seconds"]] for run in each], axis=0)
            fewer = f" ({len(each)} seed{'s' * (len(each) > 1)})" * (len(each) < num_seeds)
            cells.append(format_cell(means.get((name, task))) + fewer * bool(each))
        rows.append([task, str(shots), str(num_seeds), *cells])
    in_all = [all((name, task) in means for task in tasks_run) for name in columns]
    cells = [
        format_cell(np.mean([means[name, task] for task in tasks_run], axis=0) if complete else None)
        for name, complete in zip(columns, in_all, strict=True)
    ]
    return [*rows, [f"**mean of {len(tasks_run)}**", str(shots), "", *cells]]


def format_cell(values: np.ndarray | None) -> str:
    """Return (accuracy, seconds) as text."""
    return "" if values is None else f"{values[0]:.3f}, {values[1]:.0f} s"


def compare_with_setfit(trials: dict[tuple, dict], shots: int) -> list[str]:
    """Return sentences on the differences from SetFit, paired by task and seed."""
    sentences = []
    for contender in COLUMNS:
        pairs = [
            (key[1], 100 * (trial["accuracy"] - trials[PEERS[0], *key[1:]]["accuracy"]))
            for key, trial in trials.items()
            if key[0] == contender != PEERS[0] and key[2] == shots and (PEERS[0], *key[1:]) in trials
        ]
        by_task = {task: np.array([gain for other, gain in pairs if other == task]) for task, _ in pairs}
        if by_task:
            gains = np.array([values.mean() for values in by_task.values()])
            half = results.half_interval(gains)
            worst = min(by_task, key=lambda task: by_task[task].mean())
            interval = f"[{gains.mean() - half:+.1f}, {gains.mean() + half:+.1f}]"
            lowest = f"lowest {worst}, {by_task[worst].mean():+.1f}"
            sentences.append(f"{contender} {gains.mean():+.1f} {interval} over {len(gains)} tasks, {lowest}")
    return sentences


def main(args: list[str]) -> None:
    """Run the missing trials and write the table."""
    defaults = {"contenders": ",".join(CONTENDERS), "tasks": ",".join(TASKS), "shots": "8,16", "seeds": "3", "data": ""}
    pythons = {"python": sys.executable, "fastfit_python": sys.executable}
    options, _ = results.parse_options(args, **defaults, **pythons, again="", nice="0")
    finished = {key for key in read_trials() if key[0] not in options["again"].split(",")}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    machine = results.describe_machine()
    for key in [
        (contender, task, int(shots), seed)
        for seed in range(int(options["seeds"]))
        for shots in options["shots"].split(",")
        for task in options["tasks"].split(",")
        for contender in options["contenders"].split(",")
        if (contender != "name" or shots == "0") and (contender not in NEED_LABELS or shots != "0")
    ]:
        if key in finished:
            continue
        python = options["python"] if key[0] in PEERS else sys.executable
        trial_args = ["trial", *map(str, key), options["data"], options["fastfit_python"]]
        command = ["nice", "-n", options["nice"], python, __file__, *trial_args]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{key}: {done.stderr[-2000:]}")
        names = dict(zip(("contender", "task", "shots", "seed"), key, strict=True))
        trial = (
            names | json.loads(done.stdout.strip().splitlines()[-1]) | {"machine": machine, "date": str(date.today())}
        )
        with open(TRIALS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(trial) + "\n")
        print(*key, f"{trial['accuracy']:.3f}", f"{trial['train_seconds']:.0f} s", flush=True)
    write_results(read_trials())


def write_results(trials: dict[tuple, dict]) -> None:
    """Write the table, and the differences from SetFit."""
    sizes = sorted({key[2] for key in trials})
    columns = [name for name in COLUMNS if any(key[0] == name for key in trials)]
    rows = [row for shots in sizes for row in results_table(trials, shots, columns)]
    table = results.markdown_table(["task", "labels per class", "seeds", *columns], rows)
    lines = [f"- {shots}: {'; '.join(compared)}" for shots in sizes if (compared := compare_with_setfit(trials, shots))]
    machines = "; ".join(sorted({each["machine"] for each in trials.values()}))
    text = (
        f"{table}\n\nTest accuracy, and seconds of training on one thread.\n\nPoints above SetFit by labels per class,"
        " paired by task and seed, with the 95% interval over tasks:\n\n" + "\n".join(lines)
    )
    results.write_section(SECTION, "python benchmarks/fewshot.py data=FOLDER", text, machines)
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["trial"]:
        run_trial(*sys.argv[2:])
    else:
        main(sys.argv[1:])
