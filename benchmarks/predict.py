"""Measure predictions: speed against transformers' pipeline, and what precision, `unlike` and shares are worth.

    python benchmarks/predict.py speed [rows=10000]
    python benchmarks/predict.py precision|unlike|shares [data=FOLDER] [seeds=5]

Models are fine-tuned on minilm with 500 labels, once each, in out/runs/bench-predict-TASK-SEED.
"""

from __future__ import annotations

import csv
import itertools
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import results
import tasks

STEPS, MAX_LENGTH = 40, 32
SETTINGS = [
    *("encoder=minilm", "method=none", f"train.steps={STEPS}", f"train.eval_every={STEPS}", "baselines=false"),
    *(f"max_length={MAX_LENGTH}", "task.num_examples=500"),
]
PRECISION = 0.95
PAIRS = [
    *[("topics", "trec"), ("topics", "sentiment"), ("trec", "banking77"), ("trec", "tweets")],
    *[("sentiment", "tweets"), ("sentiment", "topics"), ("banking77", "trec"), ("banking77", "spam")],
]
"""Task that a model is trained on, and the task of foreign texts."""
PAIR_ROWS = 200
NUM_RANDOM_SETS = 20


def train_model(task: str, seed: int, data: str) -> str:
    """Return the name of the run of a model, which is trained if it is not there."""
    name = f"bench-predict-{task}-{seed}"
    if not (results.ROOT / "out" / "runs" / name / "model").is_dir():
        args = [*tasks.task_args(task, data), *SETTINGS, f"run={name}", f"seed={seed}"]
        command = [sys.executable, "-m", "finetune", *args]
        subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    return name


def predict_texts(run: str, texts: list[str], precision: float | None = None) -> list:
    """Return the predictions of a run's model, each with its `score` of novelty."""
    from data.classifier import Classifier
    from engine.models.embed import run_stream
    from engine.training.distributed import make_accelerator
    from predict.predictions import Decider
    from predict.rows import iter_texts

    classifier = Classifier(run)
    decider, accelerator = Decider(classifier, precision), make_accelerator("float32")
    items = iter_texts(texts, classifier.modality, classifier.problem_type)
    stream = run_stream(
        classifier.place(accelerator.device),
        items,
        lambda part: classifier.read([item.example for item in part]),
        accelerator,
    )
    found = []
    for item, output in stream:
        prediction = decider.decide(item, output)
        found.append((prediction, classifier.split_output(output)[1]))
    return found


def measure_precision(data: str, seeds: int) -> None:
    """Ask for a precision on two tasks, and compare with that on the test rows."""
    lines, totals = [], []
    for task, seed in itertools.product(("topics", "sentiment"), range(seeds)):
        texts, labels = read_test(task, data)
        found = [prediction for prediction, _ in predict_texts(train_model(task, seed, data), texts, PRECISION)]
        right = np.array([prediction.label == label for prediction, label in zip(found, labels, strict=True)])
        answered = np.array([not prediction.unsure for prediction in found])
        reached = right[answered].mean() if answered.any() else float("nan")
        totals.append((task, reached, answered.mean()))
        lines.append([f"{task}, seed {seed}", f"{right.mean():.3f}", f"{reached:.3f}", f"{answered.mean():.3f}"])
        print(lines[-1], flush=True)
    for task in ("topics", "sentiment"):
        reached, answered = (np.mean([row[column] for row in totals if row[0] == task]) for column in (1, 2))
        lines.append([f"{task}, mean", "", f"{reached:.3f}", f"{answered:.3f}"])
    table = results.markdown_table(["model", "accuracy", "precision of the sure rows", "share of sure rows"], lines)
    note = f"Asked for a precision of {PRECISION}; the test rows were not used. {describe_models()}"
    write("Precision asked for", f"precision seeds={seeds}", f"{note}\n\n{table}")


def measure_unlike(data: str) -> None:
    """Compare the distances of a model's own test rows with those of another task's."""
    lines, values = [], []
    for task, foreign in PAIRS:
        run = train_model(task, 0, data)
        scores = [
            [score for _, score in predict_texts(run, sample(read_test(name, data)[0]))] for name in (task, foreign)
        ]
        values.append(auroc(*map(np.array, scores)))
        lines.append([task, foreign, f"{values[-1]:.3f}"])
        print(lines[-1], flush=True)
    lines.append(["mean", "", f"{np.mean(values):.3f}"])
    table = results.markdown_table(["trained on", "foreign texts", "AUROC"], lines)
    note = f"{PAIR_ROWS} test rows of each. {describe_models()}"
    write("Texts unlike the training rows", "unlike", f"{note}\n\n{table}")


def measure_shares(data: str) -> None:
    """Compare counted and corrected shares of a rare class in test sets of 9 to 1."""
    from data.classifier import Classifier
    from data.tasks.prevalence import estimate_shares

    lines = []
    for task, common, rare in (
        ("sentiment", "negative", "positive"),
        ("sentiment", "positive", "negative"),
        ("topics", "acq", "earn"),
        ("topics", "earn", "acq"),
    ):
        run = train_model(task, 0, data)
        texts, labels = read_test(task, data)
        classifier, found = Classifier(run), predict_texts(run, texts)
        outputs = np.array([prediction.outputs for prediction, _ in found])
        index, rng, errors, covered = classifier.names.index(rare), np.random.default_rng(0), [], 0
        rows = {name: np.flatnonzero(np.array(labels) == name) for name in (common, rare)}
        size = min(len(rows[common]) // 9, len(rows[rare]))
        held_out = classifier.confidence.probabilities, classifier.confidence.labels
        for _ in range(NUM_RANDOM_SETS):
            chosen = [rng.choice(rows[common], 9 * size, False), rng.choice(rows[rare], size, False)]
            values = outputs[np.concatenate(chosen)]
            shares, low, high = estimate_shares(values, *held_out)
            errors.append((abs((values.argmax(1) == index).mean() - 0.1), abs(shares[index] - 0.1)))
            covered += low[index] <= 0.1 <= high[index]
        counted, corrected = 100 * np.array(errors).T
        lines.append(
            [
                f"{task}: 10% {rare}, 90% {common}",
                f"{counted.mean():.1f}",
                f"{corrected.mean():.1f}",
                f"{corrected.max():.1f}",
                f"{covered / NUM_RANDOM_SETS:.0%}",
            ]
        )
        print(lines[-1], flush=True)
    header = ["test set", "counting is off by", "corrected: off by", "at most", "intervals with the true share"]
    note = f"Points, means over {NUM_RANDOM_SETS} random sets of test rows. {describe_models()}"
    write("Shares of classes", "shares", f"{note}\n\n{results.markdown_table(header, lines)}")


def measure_speed(rows: int, data: str) -> None:
    """Predict the same rows by the command and by transformers' pipeline, in turns of a part."""
    import shutil

    from transformers import pipeline

    from data.classifier import Classifier
    from engine.training.distributed import make_accelerator
    from predict.config import Predict
    from predict.run import PART_ROWS, PredictRun

    run = train_model("sentiment", 0, data)
    splits = [tasks.read_splits(name, data)[split] for name in ("sentiment", "subj") for split in ("train", "test")]
    texts = [row.texts[0] for rows_ in splits for row in rows_]
    random.Random(0).shuffle(texts)
    texts = texts[:rows]
    folder, seconds = results.ROOT / "out" / "benchmarks" / "predict", {"predict": [], "sorted": [], "unsorted": []}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    classifier, accelerator = Classifier(run, 512), make_accelerator("float32")
    classify = pipeline("text-classification", str(classifier.folder), batch_size=64, trust_remote_code=False)
    labels, same = {}, 0
    for start in range(0, len(texts), PART_ROWS):
        part = texts[start : start + PART_ROWS]
        path, output = folder / f"{start}.csv", folder / f"labels-{start}.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in part)])
        clock = time.process_time()
        config = Predict(model=run, source={"files": str(path)}, output=str(output), raw=True)
        PredictRun(config, classifier, accelerator).run()
        seconds["predict"].append(time.process_time() - clock)
        for name, ordered in (("sorted", sorted(part, key=len)), ("unsorted", part)):
            clock = time.process_time()
            found = classify(ordered)
            seconds[name].append(time.process_time() - clock)
            labels |= dict(zip(ordered, (row["label"] for row in found), strict=True))
        with open(output, encoding="utf-8", newline="") as file:
            same += sum(row["label"] == labels[row["text"]] for row in csv.DictReader(file))
        print(start, {name: f"{values[-1]:.1f}" for name, values in seconds.items()}, same, flush=True)
    full = [index for index, _ in enumerate(seconds["predict"]) if (index + 1) * PART_ROWS <= len(texts)]
    lines = []
    for name, title in (
        ("predict", "`make predict`, file to file"),
        ("sorted", "pipeline, texts sorted by length"),
        ("unsorted", "pipeline, texts as they come"),
    ):
        rates = [PART_ROWS / seconds[name][index] for index in full]
        ratios = [seconds[name][index] / seconds["predict"][index] for index in full]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([title, f"{statistics.median(rates):.0f}", spread])
    table = results.markdown_table(["contender", "rows per CPU second", "CPU seconds, by those of `predict`"], lines)
    note = f"{len(texts):,} sentences of 27 tokens in turns of {PART_ROWS:,}, one core, minilm, float32."
    note += f" {same:,} of {len(texts):,} labels are the same. Medians, with the range over turns."
    write("Predicting a file", f"speed rows={rows}", f"{note}\n\n{table}")


def read_test(task: str, data: str) -> tuple[list[str], list[str]]:
    """Return the texts and labels of the test rows that models are fine-tuned with."""
    tasks.task_args(task, data)
    with open(tasks.FOLDER / task / "test.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def sample(texts: list[str]) -> list[str]:
    """Return some of the texts."""
    return random.Random(0).sample(texts, min(PAIR_ROWS, len(texts)))


def auroc(own: np.ndarray, foreign: np.ndarray) -> float:
    """Return the probability that a foreign text has a higher score than one of the model's own task."""
    return float((foreign[:, None] > own).mean() + (foreign[:, None] == own).mean() / 2)


def describe_models() -> str:
    """Describe the models."""
    return f"Models: minilm, fine-tuned on 500 labels in {STEPS} steps, texts cut at {MAX_LENGTH} tokens."


def write(title: str, command: str, body: str) -> None:
    """Print a section and write it to RESULTS.md."""
    print(body)
    results.write_section(title, f"python benchmarks/predict.py {command}", body)


def main(args: list[str]) -> None:
    """Run the benchmarks that are named."""
    options, names = results.parse_options(args, data="", seeds="5", rows="10000")
    data = str(Path(options["data"]).resolve()) if options["data"] else ""
    benchmarks = {
        "speed": lambda: measure_speed(int(options["rows"]), data),
        "precision": lambda: measure_precision(data, int(options["seeds"])),
        "unlike": lambda: measure_unlike(data),
        "shares": lambda: measure_shares(data),
    }
    for name in names or benchmarks:
        benchmarks[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
