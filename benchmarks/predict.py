"""Measure predictions: speed against transformers' pipeline, and what precision, `unlike` and shares are worth.

    python benchmarks/predict.py speed [rows=100000] [data=FOLDER]
    python benchmarks/predict.py precision|unlike|shares|memory|kills [data=FOLDER] [seeds=5]

Models are fine-tuned on minilm with 500 labels, once each, in out/runs/bench-predict-TASK-SEED.
"""

from __future__ import annotations

import csv
import itertools
import random
import re
import resource
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
TURN_ROWS, PEER_ROWS = 10_240, 2_048
MAX_CHARS = 512  # the pipeline fails on longer texts, which it does not truncate


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
    from engine.models.embed import BATCH_SIZE, run_stream
    from engine.training.distributed import make_accelerator
    from predict.mixed_precision import predict_inputs
    from predict.predictions import Decider
    from predict.rows import iter_texts
    from predict.run import PART_ROWS

    classifier = Classifier(run)
    decider, accelerator = Decider(classifier, precision), make_accelerator("native")
    items = iter_texts(texts, classifier.modality, classifier.problem_type)
    classifier.place(accelerator.device)

    def run_part(part: list) -> list:
        return predict_inputs(classifier, classifier.read([item.example for item in part]), accelerator, BATCH_SIZE)

    stream = run_stream(items, run_part, PART_ROWS)
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
        # Without a sure row, there is no precision.
        reached, answered = (np.nanmean([row[column] for row in totals if row[0] == task]) for column in (1, 2))
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


def read_sentences(rows: int, data: str) -> list[str]:
    """Return the texts of seven tasks, those of `topics` as sentences, in a random order and as often as needed."""
    texts = []
    for name in ("sentiment", "subj", "tweets", "trec", "banking77", "spam", "topics"):
        for row in itertools.chain(*tasks.read_splits(name, data).values()):
            texts += re.split(r"(?<=[.!?])\s+", row.texts[0]) if name == "topics" else [row.texts[0]]
    texts = [text for text in dict.fromkeys(texts) if text.strip() and len(text) <= MAX_CHARS]
    texts *= -(-rows // len(texts))
    random.Random(0).shuffle(texts)
    return texts[:rows]


def measure_speed(rows: int, data: str) -> None:
    """Predict files by the command, and some of their rows by transformers' pipeline, in turns."""
    import shutil

    import torch
    from transformers import pipeline

    from data.classifier import Classifier
    from engine.training.distributed import make_accelerator
    from predict.config import Predict
    from predict.run import PredictRun

    run, texts = train_model("sentiment", 0, data), read_sentences(rows, data)
    folder, rates = results.ROOT / "out" / "benchmarks" / "predict", {"predict": [], "sorted": [], "unsorted": []}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    classifier, accelerator = Classifier(run, 512), make_accelerator("native")
    classify = pipeline("text-classification", str(classifier.folder), batch_size=64, trust_remote_code=False)
    same = compared = 0
    for start in range(0, len(texts), TURN_ROWS):
        part = texts[start : start + TURN_ROWS]
        path, output = folder / f"{start}.csv", folder / f"labels-{start}.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in part)])
        clock = time.perf_counter()
        config = Predict(model=run, source={"files": str(path)}, output=str(output), raw=True)
        PredictRun(config, classifier, accelerator).run()
        rates["predict"].append(len(part) / (time.perf_counter() - clock))
        peer_texts, labels = part[:PEER_ROWS], {}
        for name, ordered in (("sorted", sorted(peer_texts, key=len)), ("unsorted", peer_texts)):
            clock = time.perf_counter()
            found = classify(ordered)
            rates[name].append(len(ordered) / (time.perf_counter() - clock))
            labels |= dict(zip(ordered, (row["label"] for row in found), strict=True))
        with open(output, encoding="utf-8", newline="") as file:
            pairs = [(row["label"], labels[row["text"]]) for row in csv.DictReader(file) if row["text"] in labels]
        same, compared = same + sum(one == other for one, other in pairs), compared + len(pairs)
        print(start, {name: f"{values[-1]:.0f}" for name, values in rates.items()}, same, compared, flush=True)
    lines = []
    for name, title in (
        ("predict", "`make predict`, file to file"),
        ("sorted", "pipeline, texts sorted by length"),
        ("unsorted", "pipeline, texts as they come"),
    ):
        ratios = [ours / theirs for ours, theirs in zip(rates["predict"], rates[name], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([title, f"{statistics.median(rates[name]):.0f}", spread])
    table = results.markdown_table(["contender", "rows/s", "rows/s of `predict`, by its own"], lines)
    note = f"{len(texts):,} short texts by `predict`, in turns of {TURN_ROWS:,}, and {PEER_ROWS:,} of each turn by the"
    note += f" others; minilm, {torch.get_num_threads()} threads, {accelerator.mixed_precision}."
    note += f" {same:,} of {compared:,} labels are the same. Medians, with the range over turns."
    write("Predicting a file", f"speed rows={rows}", f"{note}\n\n{table}")


def make_tiny_model() -> Path:
    """Return the folder of a classifier of one small layer with random weights, and minilm's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from data.encoders import resolve_encoder
    from engine.models import LOAD_KWARGS

    folder = results.ROOT / "out" / "benchmarks" / "predict" / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"), **LOAD_KWARGS)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), id2label={0: "no", 1: "yes"}, initializer_range=0.5, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(rows: int, data: str) -> Path:
    """Write a table of short texts, and return its path."""
    path = results.ROOT / "out" / "benchmarks" / "predict" / f"{rows}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *enumerate(read_sentences(rows, data))])
    return path


def make_command(rows: int, data: str, name: str) -> tuple[list[str], Path]:
    """Return a command that predicts rows with the tiny model, and the file that it writes."""
    output = results.ROOT / "out" / "benchmarks" / "predict" / f"{name}.csv"
    args = [f"model={make_tiny_model()}", f"file={write_rows(rows, data)}", f"output={output}", "overwrite=true"]
    output.unlink(missing_ok=True)
    return [sys.executable, "-m", "predict", *args], output


def measure_memory(data: str, rows: int = 1_000_000) -> None:
    """Predict a million rows in a process of its own; report its time and memory."""
    command, output = make_command(rows, data, "million")
    clock = time.perf_counter()
    subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - clock
    with open(output, encoding="utf-8", newline="") as file:
        numbers = [int(row["number"]) for row in csv.DictReader(file)]
    if numbers != list(range(rows)):
        raise SystemExit("rows are missing")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    body = f"{rows:,} short texts, a network of one small layer: {seconds:.0f} s, {rows / seconds:,.0f} rows/s,"
    write(
        "Predicting a million rows", "memory", f"{body} {peak:.2f} GiB of memory at most. All rows are there, in order."
    )


def measure_kills(data: str, kills: int = 20, rows: int = 100_000) -> None:
    """Kill a command at random moments, resume it each time, and compare its file with that of an undisturbed one."""
    command, output = make_command(rows, data, "whole")
    clock = time.perf_counter()
    subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds, rng, done = time.perf_counter() - clock, random.Random(0), 0
    whole, moments = output.read_bytes(), []
    command, output = make_command(rows, data, "killed")
    parts = output.with_name(f".{output.name}.parts")
    while done < kills:
        process = subprocess.Popen(command, cwd=results.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, seconds))
            if output.read_bytes() != whole:
                raise SystemExit(f"after {done} kills, the file differs")
            output.unlink()  # the command ended before its kill: again from the start
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            moments.append(len(list(parts.glob("part-*.json"))))
    subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    if output.read_bytes() != whole:
        raise SystemExit(f"after {done} kills, the file differs")
    inside = sum(bool(moment) for moment in moments)
    body = f"{rows:,} rows, {kills} times SIGKILL at a random moment, {inside} of them between two parts:"
    write("Killed predictions", "kills", f"{body} the same file, byte for byte.")


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
    options, names = results.parse_options(args, data="", seeds="5", rows="100000")
    data = str(Path(options["data"]).resolve()) if options["data"] else ""
    benchmarks = {
        "speed": lambda: measure_speed(int(options["rows"]), data),
        "memory": lambda: measure_memory(data),
        "kills": lambda: measure_kills(data),
        "precision": lambda: measure_precision(data, int(options["seeds"])),
        "unlike": lambda: measure_unlike(data),
        "shares": lambda: measure_shares(data),
    }
    for name in names or benchmarks:
        benchmarks[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
