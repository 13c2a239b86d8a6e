"""Compare ways to choose which inputs to label: accuracy after 16 to 256 labels, on frozen vectors or fine-tuned.

    python -m venv peer && peer/bin/pip install -r requirements.txt
    peer/bin/pip install --no-deps small-text==2.0.0.dev4 dill
    python benchmarks/choosing.py frozen [python=peer/bin/python] [contenders=...] [tasks=...] [seeds=10] [data=FOLDER]
    python benchmarks/choosing.py finetuned [seeds=5] [tasks=...] [data=FOLDER]
    python benchmarks/choosing.py interval [data=FOLDER] | suspects [python=...] [data=FOLDER] | table

A trial is one contender, task and seed. Finished ones are lines of benchmarks/choosing_trials.jsonl, so the benchmark
resumes. The pool of a seed is a random 80% of the training rows, from which labels are read for what is chosen; test
rows are all; for TREC they are of another collection, so the accuracy on the training rows outside the pool is given
too. Labels come in rounds, to 16, 32, 64, 128 and 256. Vectors: minilm, mean-pooled, of unit length. The
classifier of `frozen` is logistic regression with C=30, also for the contenders that ask it, except that headstart and
mixed ask the one of `make explore`, with balanced class weights; that of `finetuned` is `make finetune` as it comes,
with the chosen labels only. A class without a label counts as errors.

| contender | what it is |
|---|---|
| random | rows at random |
| headstart | `explore.choose`: facility location, with clustered margin in turn from 32 labels and 5 a class |
| facility | facility location at every size |
| margin | clustered margin after the first 16 |
| mixed | every second row at random, the others as headstart |
| breaking_ties, embedding_kmeans, greedy_coreset, prob_cover | small-text's, at its defaults; most start at random |

interval: simulated users label by the queue, and the 95% interval of the accuracy is computed from the rows reserved
for measuring. suspects: 10% of 500 labels are flipped, and searched for.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import results
import tasks

TRIALS_FILE = Path(__file__).parent / "choosing_trials.jsonl"
TASKS = ("topics", "banking77", "trec", "sentiment")
SIZES = (16, 32, 64, 128, 256)
OURS = ("headstart", "facility", "margin", "mixed")
PEERS = ("breaking_ties", "embedding_kmeans", "greedy_coreset", "prob_cover")
CONTENDERS = ("random", *OURS, *PEERS)
POOL_FRACTION = 0.8
FINETUNED = ("random", "headstart", "mixed")
BARS = {"topics": (32, 9), "banking77": (128, 15), "trec": (64, 5), "sentiment": (64, 1)}
"""Labels, and points above random that are asked for."""
FINETUNED_SIZES = {"topics": 32, "banking77": 128, "trec": 64, "sentiment": 64}
FINETUNE_ARGS = ("encoder=minilm", "max_length=64", "train.load_best=false", "baselines=false", "unlabeled=false")
USER_LABELS, NUM_USERS = 128, 100
NOISY_ROWS, FLIPPED_FRACTION = 500, 0.1
FOLDER = results.ROOT / "out" / "benchmarks" / "choosing"


def load_vectors(task: str, data: str) -> dict[str, np.ndarray]:
    """Return texts, labels (class ids) and unit vectors of the training and test rows; vectors are computed once."""
    from data.encoders import resolve_encoder
    from data.sources.source import Source, iter_rows

    tasks.task_args(task, data)
    path, found, names = FOLDER / f"{task}.npz", {}, {}
    for split in ("train", "test"):
        rows = list(iter_rows(Source(files=str(tasks.FOLDER / task / f"{split}.csv"))))
        found[f"{split}_texts"] = np.array([row["text"] for row in rows], object)
        found[f"{split}_labels"] = np.array([names.setdefault(row["label"], len(names)) for row in rows])
    found["names"] = np.array(list(names), object)
    if not path.is_file():
        from explore.vectors import TextEncoder

        encoder = TextEncoder(resolve_encoder("minilm"), 256)
        made = {split: encoder.embed(list(found[f"{split}_texts"])) for split in ("train", "test")}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **made)
    with np.load(path) as saved:
        for split in ("train", "test"):
            found[split] = saved[split].astype(np.float32)
    return found


def fit(vectors: np.ndarray, labels: np.ndarray):
    """Return the classifier of the frozen vectors."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=30, max_iter=1_000) if len(np.unique(labels)) > 1 else DummyClassifier()
    return model.fit(vectors, labels)


class SmallTextClassifier:
    """What small-text's strategies ask of a classifier."""

    def __init__(self, model):
        self.model = model

    def predict_proba(self, dataset: np.ndarray) -> np.ndarray:
        """Return the probabilities of vectors."""
        return self.model.predict_proba(dataset)


def ask_small_text(contender: str, vectors: np.ndarray, chosen: np.ndarray, labels: np.ndarray, count: int):
    """Return the rows that a strategy of small-text chooses next."""
    from small_text.query_strategies import BreakingTies, EmbeddingKMeans, GreedyCoreset, ProbCover
    from small_text.vector_indexes import KNNIndex, VectorIndexFactory

    unlabeled = np.setdiff1d(np.arange(len(vectors)), chosen)
    if contender == "breaking_ties":
        model = SmallTextClassifier(fit(vectors[chosen], labels[chosen]))
        return BreakingTies().query(model, vectors, unlabeled, chosen, labels[chosen], n=count)
    strategy = {
        "embedding_kmeans": EmbeddingKMeans,
        "greedy_coreset": GreedyCoreset,
        "prob_cover": lambda: ProbCover(vector_index_factory=VectorIndexFactory(KNNIndex)),
    }[contender]()
    embeddings = vectors[np.concatenate([unlabeled, chosen])]
    return strategy.query(None, vectors, unlabeled, chosen, labels[chosen], n=count, embeddings=embeddings)


def choose(contender: str, vectors: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows labeled at each size, each with those before it first."""
    from explore.choose import choose_inputs, choose_representative, choose_uncertain, margins_of
    from explore.labels import predict_from_labels

    order = np.random.default_rng([seed, 1]).permutation(len(vectors))
    chosen, everything = np.zeros(0, np.int64), np.arange(len(vectors))
    np.random.seed(seed)  # small-text draws from NumPy's global generator
    for size in SIZES:
        count, allowed = size - len(chosen), np.setdiff1d(everything, chosen)
        model = fit(vectors[chosen], labels[chosen]) if len(chosen) else None
        if contender == "random" or (contender in ("breaking_ties", "greedy_coreset", "prob_cover") and model is None):
            new = order[np.isin(order, allowed)][:count]
        elif contender in PEERS:
            new = np.asarray(ask_small_text(contender, vectors, chosen, labels, count))
            new = np.array([index for index in dict.fromkeys(new.tolist()) if index not in set(chosen.tolist())], int)
            further = order[np.isin(order, np.setdiff1d(allowed, new))]  # what it returned twice, at random
            new = np.concatenate([new, further[: count - len(new)]])
        elif contender == "facility" or (contender == "margin" and model is None):
            new = choose_representative(vectors, allowed, chosen, count, seed)
        elif contender == "margin":
            new = choose_uncertain(vectors, allowed, margins_of(model.predict_proba(vectors)), count, seed)
        else:
            num_classes = int(labels.max()) + 1
            probabilities = predict_from_labels(vectors, chosen, labels[chosen], num_classes) if model else None
            drawn = order[np.isin(order, allowed)][: count // 2 if contender == "mixed" else 0]
            known, left = np.concatenate([chosen, drawn]), np.setdiff1d(allowed, drawn)
            found = choose_inputs(vectors, left, known, labels[known], probabilities, count - len(drawn), seed)
            new = np.concatenate([drawn, found.indices])
        chosen = np.concatenate([chosen, new])
        assert len(set(chosen.tolist())) == size
        yield chosen


def sample_pool(rows: int, seed: int) -> np.ndarray:
    """Return the rows of a seed's pool."""
    return np.sort(np.random.default_rng([seed, 0]).permutation(rows)[: round(POOL_FRACTION * rows)])


def run_frozen(contender: str, task: str, seed: int, data: dict[str, np.ndarray]) -> dict:
    """Return the accuracy in percent at each size, on the test rows and on the training rows outside the pool."""
    pool, start = sample_pool(len(data["train"]), seed), time.process_time()
    vectors, labels, rest = (
        data["train"][pool],
        data["train_labels"][pool],
        np.delete(np.arange(len(data["train"])), pool),
    )
    scored = {
        "accuracy": (data["test"], data["test_labels"]),
        "rest": (data["train"][rest], data["train_labels"][rest]),
    }
    accuracies = {name: [] for name in scored}
    for chosen in choose(contender, vectors, labels, seed):
        model = fit(vectors[chosen], labels[chosen])
        for name, (inputs, truth) in scored.items():
            accuracies[name].append(round(100 * float((model.predict(inputs) == truth).mean()), 3))
    return {**accuracies, "cpu": round(time.process_time() - start, 2)}


def read_trials(kind: str) -> dict[tuple, dict]:
    """Return the finished trials of a kind by (contender, task, seed)."""
    lines = TRIALS_FILE.read_text(encoding="utf-8").splitlines() if TRIALS_FILE.is_file() else []
    return {
        (each["contender"], each["task"], each["seed"]): each for each in map(json.loads, lines) if each["kind"] == kind
    }


def add_trial(kind: str, contender: str, task: str, seed: int, result: dict) -> None:
    """Append a finished trial."""
    trial = {"kind": kind, "contender": contender, "task": task, "seed": seed, **result, "date": str(date.today())}
    with open(TRIALS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(trial) + "\n")
    print(kind, contender, task, seed, {key: value for key, value in result.items() if key != "cpu"}, flush=True)


def run_missing(kind: str, options: dict) -> None:
    """Run the missing trials of frozen vectors with this Python."""
    finished, loaded = read_trials(kind), {}
    for seed, task, contender in itertools.product(
        range(int(options["seeds"])), options["tasks"].split(","), options["contenders"].split(",")
    ):
        if (contender, task, seed) not in finished:
            loaded[task] = loaded.get(task) or load_vectors(task, options["data"])
            add_trial(kind, contender, task, seed, run_frozen(contender, task, seed, loaded[task]))


def measure_frozen(options: dict) -> None:
    """Run contenders of this project with this Python and the peers with theirs, then write the table."""
    named = options["contenders"].split(",")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for python, names in ((sys.executable, ("random", *OURS)), (options["python"], PEERS)):
        chosen = [name for name in named if name in names]
        if chosen:
            args = [f"{key}={value}" for key, value in options.items() if key != "contenders"]
            command = [python, __file__, "trials", f"contenders={','.join(chosen)}", *args]
            subprocess.run(command, env=environment, check=True)
    write_table()


def paired_gains(
    trials: dict[tuple, dict], contender: str, task: str, column: int = 0, rows: str = "accuracy"
) -> np.ndarray:
    """Return the points above random of each seed that both have run. column: position in SIZES; rows: or rest."""
    seeds = sorted({key[2] for key in trials if key[:2] == (contender, task)})
    pairs = [(trials[contender, task, seed], trials.get(("random", task, seed))) for seed in seeds]
    return np.array([ours[rows][column] - other[rows][column] for ours, other in pairs if other])


def format_interval(values: np.ndarray) -> str:
    """Return a mean with its 95% interval."""
    half = results.half_interval(values)
    return f"{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}]"


def write_table() -> None:
    """Write the section of the frozen vectors."""
    trials = read_trials("frozen")
    names = [name for name in CONTENDERS if any(key[0] == name for key in trials)]
    tasks_run = [task for task in TASKS if ("headstart", task, 0) in trials]
    rows, above, num_seeds = [], {name: [] for name in names}, len({key[2] for key in trials})
    for task, (column, size) in itertools.product(tasks_run, enumerate(SIZES)):
        cells = []
        for name in names:
            found = np.array([each["accuracy"][column] for key, each in trials.items() if key[:2] == (name, task)])
            fewer = f" ({len(found)} seeds)" * (len(found) < num_seeds)
            cells.append(f"{found.mean():.1f} ± {found.std(ddof=1):.1f}{fewer}" if len(found) > 1 else "")
            gains = paired_gains(trials, name, task, column)
            above[name] += [gains.mean()] if len(gains) > 1 else []
        rows.append([task, str(size), *cells])
    means = [f"{np.mean(above[name]):+.1f}" if len(above[name]) == len(rows) else "" for name in names]
    rows.append(["**mean above random**", "", *means])
    lines = [
        f"- {task}, {size} labels: {format_interval(paired_gains(trials, 'headstart', task, SIZES.index(size)))} above"
        f" random (asked for: {bar:+d}); on the training rows outside the pool"
        f" {format_interval(paired_gains(trials, 'headstart', task, SIZES.index(size), 'rest'))}"
        for task, (size, bar) in BARS.items()
        if task in tasks_run
    ]
    lowest = int(np.argmin(above["headstart"]))
    lines.append(f"- lowest of all: {rows[lowest][0]}, {rows[lowest][1]} labels, {above['headstart'][lowest]:+.1f}")
    note = f"Test accuracy in percent on frozen vectors, mean and standard deviation over {num_seeds} seeds."
    text = f"{note}\n\n{results.markdown_table(['task', 'labels', *names], rows)}\n\n" + "\n".join(lines)
    write("Which inputs to label first", "frozen", text)


def write(title: str, part: str, text: str) -> None:
    """Write a section and print it."""
    results.write_section(title, f"python benchmarks/choosing.py {part} data=FOLDER", text)
    print(text)


def run_finetuned(contender: str, task: str, seed: int, data: dict[str, np.ndarray], args: list[str]) -> dict:
    """Return the test accuracy in percent of `make finetune` on the chosen rows."""
    from engine.config.loader import load_config
    from engine.runs.run import RUNS_FOLDER
    from finetune.config import Finetune
    from finetune.train import finetune

    pool, name = sample_pool(len(data["train"]), seed), f"choosing-{os.getpid()}"
    for chosen in choose(contender, data["train"][pool], data["train_labels"][pool], seed):
        if len(chosen) == FINETUNED_SIZES[task]:
            break
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.csv", "w", encoding="utf-8", newline="") as file:
        rows = [[data["train_texts"][index], data["names"][data["train_labels"][index]]] for index in pool[chosen]]
        csv.writer(file).writerows([["text", "label"], *rows])
    args = [*args, f"task.train.files={folder}/train.csv", *FINETUNE_ARGS, f"seed={seed}", f"run={name}"]
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(load_config(Finetune, args), args)
        metrics = json.loads((RUNS_FOLDER / name / "metrics.json").read_text(encoding="utf-8"))
    finally:
        for path in (RUNS_FOLDER / name, folder):
            shutil.rmtree(path, ignore_errors=True)
    return {"accuracy": [round(100 * metrics["test"]["accuracy"], 3)], "cpu": round(time.process_time() - start, 1)}


def measure_finetuned(options: dict) -> None:
    """Fine-tune on what is chosen and on random rows, in pairs, and write the table."""
    named = [name for name in FINETUNED if name in options["contenders"].split(",")]
    for seed, task, contender in itertools.product(range(int(options["seeds"])), options["tasks"].split(","), named):
        if (contender, task, seed) not in read_trials("finetuned"):
            data, args = load_vectors(task, options["data"]), tasks.task_args(task, options["data"])
            add_trial("finetuned", contender, task, seed, run_finetuned(contender, task, seed, data, args))
    trials, rows, means = read_trials("finetuned"), [], {name: [] for name in named[1:]}
    for task in options["tasks"].split(","):
        cells = [
            f"{np.mean([each['accuracy'][0] for key, each in trials.items() if key[:2] == (name, task)]):.1f}"
            for name in named
        ]
        for name, gained in means.items():
            gains = paired_gains(trials, name, task)
            cells.append(f"{format_interval(gains)} ({len(gains)} seeds)")
            gained.append(gains.mean())
        rows.append([task, str(FINETUNED_SIZES[task]), *cells])
    averages = [f"{np.mean(gained):+.1f}" for gained in means.values()]
    rows.append(["**mean**", "", *[""] * len(named), *averages])
    header = ["task", "labels", *named, *(f"gain of {name}" for name in means)]
    table = results.markdown_table(header, rows)
    note = f"Test accuracy in percent of `make finetune` with {' '.join(FINETUNE_ARGS)}, paired seeds, 95% interval."
    write("Which inputs to label first, after fine-tuning", "finetuned", f"{note}\n\n{table}")


def simulate_user(task: str, seed: int, data: dict[str, np.ndarray]) -> tuple[float, float, float, bool]:
    """Return (accuracy on the rest of the pool, ends of the measured interval, whether it holds that) of one user."""
    from explore.choose import MEASURED_FRACTION, measuring_ranks
    from explore.labels import measure_accuracy

    pool = sample_pool(len(data["train"]), seed)
    vectors, labels = data["train"][pool], data["train_labels"][pool]
    ranks = measuring_ranks([str(data["train_texts"][index]) for index in pool], seed)
    measure = np.argsort(ranks, kind="stable")[: round(MEASURED_FRACTION * USER_LABELS)]
    others = np.flatnonzero(ranks >= MEASURED_FRACTION)
    for chosen in choose("headstart", vectors[others], labels[others], seed):
        if len(chosen) >= USER_LABELS * (1 - MEASURED_FRACTION):
            break
    train = others[chosen[: round(USER_LABELS * (1 - MEASURED_FRACTION))]]
    right = fit(vectors[train], labels[train]).predict(vectors) == labels
    rest = np.setdiff1d(np.arange(len(pool)), np.concatenate([train, measure]))
    found, truth = measure_accuracy(int(right[measure].sum()), len(measure)), float(right[rest].mean())
    return truth, found.low, found.high, found.low <= truth <= found.high


def measure_interval(options: dict) -> None:
    """Count how often the interval of a simulated user holds the accuracy on the rest of the pool."""
    rows, total = [], []
    for task in options["tasks"].split(","):
        data = load_vectors(task, options["data"])
        users = [simulate_user(task, seed, data) for seed in range(NUM_USERS // len(options["tasks"].split(",")))]
        truth, low, high, holds = np.array(users).T
        total += holds.tolist()
        rows.append([task, f"{holds.sum():.0f} of {len(users)}", f"{100 * (high - low).mean():.0f}"])
        rows[-1].append(f"{100 * truth.mean():.1f}")
    rows.append(["**all**", f"{sum(total):.0f} of {len(total)}", "", ""])
    header = ["task", "intervals that hold the accuracy", "mean width, points", "mean accuracy"]
    note = f"{USER_LABELS} labels of a queue, a quarter of them random rows by which the interval is computed."
    write("The accuracy measured on random rows", "interval", f"{note}\n\n{results.markdown_table(header, rows)}")


def find_flipped(task: str, seed: int, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the shares found of flipped labels, and test accuracies with all, flipped and corrected labels."""
    from explore.labels import predict_out_of_fold, rate_labels

    rng = np.random.default_rng([seed, 2])
    rows = rng.permutation(len(data["train"]))[:NOISY_ROWS]
    vectors, (names, labels) = data["train"][rows], np.unique(data["train_labels"][rows], return_inverse=True)
    flipped = rng.permutation(len(rows))[: round(FLIPPED_FRACTION * len(rows))]
    given = labels.copy()
    given[flipped] = (labels[flipped] + rng.integers(1, len(names), len(flipped))) % len(names)
    probabilities = rate_labels(vectors, given, len(names), seed)
    order = np.argsort(probabilities[np.arange(len(rows)), given], kind="stable")[: len(flipped)]
    corrected = given.copy()
    corrected[order] = labels[order]

    def score(used: np.ndarray) -> float:
        return float((names[fit(vectors, used).predict(data["test"])] == data["test_labels"]).mean())

    found = {"found": np.isin(order, flipped).mean(), "clean": score(labels), "flipped": score(given)}
    found["corrected"] = score(corrected)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return found
    once = predict_out_of_fold(vectors, given, len(names), seed, repeats=1)
    once = (once + 1e-6) / (once + 1e-6).sum(1, keepdims=True)
    issues = find_label_issues(given, once, return_indices_ranked_by="self_confidence", n_jobs=1)
    rest = np.setdiff1d(np.argsort(once[np.arange(len(rows)), given], kind="stable"), issues, assume_unique=True)
    ranked = np.concatenate([issues, rest])[: len(flipped)]
    return found | {"cleanlab": np.isin(ranked, flipped).mean()}


def measure_suspects(options: dict) -> None:
    """Flip labels, search for them, and compare with cleanlab, if it is installed."""
    rows = []
    for task in options["tasks"].split(","):
        data = load_vectors(task, options["data"])
        found = [find_flipped(task, seed, data) for seed in range(int(options["seeds"]))]
        means = {key: 100 * np.mean([each[key] for each in found]) for key in found[0]}
        cells = [f"{means[key]:.1f}" if key in means else "" for key in ("found", "cleanlab", "clean", "flipped")]
        rows.append([task, str(len(found)), *cells, f"{means['corrected']:.1f}"])
    header = ["task", "seeds", "found", "cleanlab", "accuracy, clean", "10% flipped", "those checked corrected"]
    note = f"{NOISY_ROWS} labels, {FLIPPED_FRACTION:.0%} of them flipped; as many checked as were flipped; percent."
    write("Labels that look wrong", "suspects seeds=10", f"{note}\n\n{results.markdown_table(header, rows)}")


def main(args: list[str]) -> None:
    """Run the part that the first argument names."""
    part, *rest = args or ["frozen"]
    defaults = {"contenders": ",".join(CONTENDERS), "tasks": ",".join(TASKS), "seeds": "10", "data": ""}
    options, _ = results.parse_options(rest, **defaults, python=sys.executable)
    parts = {
        "frozen": measure_frozen,
        "trials": lambda found: run_missing("frozen", found),
        "finetuned": measure_finetuned,
        "interval": measure_interval,
        "suspects": measure_suspects,
        "table": lambda _: write_table(),
    }
    if part not in parts:
        sys.exit(f"{part}: no such part; there are {', '.join(parts)}")
    parts[part](options)


if __name__ == "__main__":
    main(sys.argv[1:])
