"""Compare ways to choose which inputs to label: accuracy after 16 to 256 labels, on frozen vectors or fine-tuned.

    python -m venv peer && peer/bin/pip install -r requirements.txt
    peer/bin/pip install --no-deps small-text==2.0.0.dev4 dill
    python benchmarks/choosing.py frozen [python=peer/bin/python] [contenders=...] [tasks=...] [seeds=10] [data=FOLDER]
    python benchmarks/choosing.py finetuned [seeds=5] [tasks=...] [data=FOLDER]
    python benchmarks/choosing.py interval [data=FOLDER] | suspects [python=...] [data=FOLDER] | table

A trial is one contender, task and seed. Finished ones are lines of benchmarks/choosing_trials.jsonl, so the benchmark
resumes. The pool of a seed is a random 80% of the training rows, from which labels are read for what is chosen; test
rows are all. Labels come in rounds, to 16, 32, 64, 128 and 256. Vectors: minilm, mean-pooled, of unit length. The
classifier of `frozen` is logistic regression with C=30, also for the contenders that ask it; that of `finetuned` is
`make finetune` as it comes, with the chosen labels only. A class without a label counts as errors.

| contender | what it is |
|---|---|
| random | rows at random |
| headstart | `explore.choose`: facility location, then clustered margin once classes have 2.5 labels on average |
| facility | facility location at every size |
| margin | clustered margin after the first 16 |
| breaking_ties, embedding_kmeans, greedy_coreset, prob_cover | small-text's, at its defaults; most start at random |

interval: simulated users label by the queue, and the 95% interval of the accuracy is computed from the rows reserved
for measuring. suspects: 10% of 500 labels are flipped, and searched for.
"""

from __future__ import annotations

import itertools
import json
import os
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
OURS = ("headstart", "facility", "margin")
PEERS = ("breaking_ties", "embedding_kmeans", "greedy_coreset", "prob_cover")
CONTENDERS = ("random", *OURS, *PEERS)
POOL_FRACTION = 0.8
BARS = {"topics": (32, 9), "banking77": (128, 15), "trec": (64, 5), "sentiment": (64, 1)}
"""Labels, and points above random that are asked for."""
FINETUNED_SIZES = {"topics": 32, "banking77": 128, "trec": 64, "sentiment": 64}
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
        else:
            probabilities = model.predict_proba(vectors) if model else None
            if contender == "margin":
                new = choose_uncertain(vectors, allowed, margins_of(probabilities), count, seed)
            else:
                new = choose_inputs(vectors, allowed, chosen, labels[chosen], probabilities, count, seed).indices
        chosen = np.concatenate([chosen, new])
        assert len(set(chosen.tolist())) == size
        yield chosen


def sample_pool(rows: int, seed: int) -> np.ndarray:
    """Return the rows of a seed's pool."""
    return np.sort(np.random.default_rng([seed, 0]).permutation(rows)[: round(POOL_FRACTION * rows)])


def run_frozen(contender: str, task: str, seed: int, data: dict[str, np.ndarray]) -> dict:
    """Return the test accuracy in percent at each size."""
    pool, start, accuracies = sample_pool(len(data["train"]), seed), time.process_time(), []
    vectors, labels = data["train"][pool], data["train_labels"][pool]
    for chosen in choose(contender, vectors, labels, seed):
        model = fit(vectors[chosen], labels[chosen])
        accuracies.append(round(100 * float((model.predict(data["test"]) == data["test_labels"]).mean()), 3))
    return {"accuracy": accuracies, "cpu": round(time.process_time() - start, 2)}


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


def paired_gains(trials: dict[tuple, dict], contender: str, task: str, size: int) -> np.ndarray:
    """Return the points above random of each seed that both have run."""
    column = SIZES.index(size)
    seeds = sorted({key[2] for key in trials if key[:2] == (contender, task)})
    pairs = [(trials[contender, task, seed], trials.get(("random", task, seed))) for seed in seeds]
    return np.array([ours["accuracy"][column] - other["accuracy"][column] for ours, other in pairs if other])


def write_table() -> None:
    """Write the section of the frozen vectors."""
    trials = read_trials("frozen")
    names = [name for name in CONTENDERS if any(key[0] == name for key in trials)]
    rows, lines = [], []
    for task in TASKS:
        for column, size in enumerate(SIZES):
            cells = []
            for name in names:
                found = np.array([each["accuracy"][column] for key, each in trials.items() if key[:2] == (name, task)])
                cells.append(f"{found.mean():.1f} ± {found.std(ddof=1):.1f}" if len(found) > 1 else "")
            rows.append([task, str(size), *cells])
    everything = [(task, size) for task in TASKS for size in SIZES]
    means = {
        name: np.mean([paired_gains(trials, name, *each).mean() for each in everything]) for name in names if trials
    }
    rows.append(["**mean above random**", "", *(f"{means[name]:+.1f}" for name in names)])
    for task, (size, bar) in BARS.items():
        gains = paired_gains(trials, "headstart", task, size)
        half = results.half_interval(gains)
        lines.append(
            f"- {task}, {size} labels: {gains.mean():+.1f} [{gains.mean() - half:+.1f}, {gains.mean() + half:+.1f}]"
            f" above random (asked for: {bar:+d})"
        )
    worst = min((paired_gains(trials, "headstart", *each).mean(), *each) for each in everything)
    lines.append(f"- lowest of all: {worst[1]}, {worst[2]} labels, {worst[0]:+.1f}")
    num_seeds = len({key[2] for key in trials})
    note = f"Test accuracy in percent on frozen vectors, mean and standard deviation over {num_seeds} seeds."
    text = f"{note}\n\n{results.markdown_table(['task', 'labels', *names], rows)}\n\n" + "\n".join(lines)
    results.write_section("Which inputs to label first", "python benchmarks/choosing.py frozen", text)
    print(text)


def main(args: list[str]) -> None:
    """Run the part that the first argument names."""
    part, *rest = args or ["frozen"]
    defaults = {"contenders": ",".join(CONTENDERS), "tasks": ",".join(TASKS), "seeds": "10", "data": ""}
    options, _ = results.parse_options(rest, **defaults, python=sys.executable)
    parts = {"frozen": measure_frozen, "trials": lambda found: run_missing("frozen", found)}
    if part not in parts:
        sys.exit(f"{part}: no such part; there are {', '.join(parts)}")
    parts[part](options)


if __name__ == "__main__":
    main(sys.argv[1:])
