"""Compare logistic regression on few random labels with and without balanced class weights.

    python benchmarks/class_weights.py [tasks=...] [seeds=10] [data=FOLDER]

Logistic regression with C=30 on unit vectors of minilm, frozen, on 16 to 512 training rows drawn at random, with the
weights of `balance_classes` and without. Scores are of EVALUATED_ROWS other training rows: no test row is read. data:
the folder with trec/, subj/ and banking77/ (benchmarks/tasks.py).
"""

from __future__ import annotations

import random
import sys
import warnings

import numpy as np
import results
from method_choice import MAX_LENGTH, TASKS, read_rows

SIZES, EVALUATED_ROWS, MAX_ROWS, C = (16, 32, 64, 128, 256, 512), 1_000, 3_000, 30.0
SCORES = ("accuracy", "macro F1", "log loss")


def score_regression(train: tuple, test: tuple, num_classes: int, is_balanced: bool) -> list[float]:
    """Return accuracy and macro F1 in percent, and the log loss, of a regression on (vectors, labels)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score

    from data.tasks.label_propagation import balance_classes

    weights = balance_classes(train[1]) if is_balanced else None
    model = LogisticRegression(C=C, max_iter=1_000).fit(*train, weights)
    probabilities = np.zeros((len(test[1]), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(test[0])
    predicted = probabilities.argmax(1)
    accuracy, f1 = accuracy_score(test[1], predicted), f1_score(test[1], predicted, average="macro")
    loss = -np.log(probabilities[np.arange(len(test[1])), test[1]].clip(1e-6)).mean()
    return [100 * accuracy, 100 * f1, loss]


def embed_rows(task: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors and class ids of at most MAX_ROWS training rows."""
    from data.encoders import resolve_encoder
    from explore.vectors import TextEncoder

    rows = read_rows(task, data)
    rows = random.Random(0).sample(rows, min(MAX_ROWS, len(rows)))
    names = sorted({row["label"] for row in rows})
    vectors = TextEncoder(resolve_encoder("minilm"), MAX_LENGTH).embed([row["text"] for row in rows])
    return vectors.astype(np.float32), np.array([names.index(row["label"]) for row in rows])


def measure_task(task: str, seeds: int, data: str) -> np.ndarray:
    """Return the change of each score by balancing, (sizes, seeds, scores); NaN for fewer rows or a single class."""
    vectors, labels = embed_rows(task, data)
    changes = np.full((len(SIZES), seeds, len(SCORES)), np.nan)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        test, pool = order[:EVALUATED_ROWS], order[EVALUATED_ROWS:]
        for row, size in enumerate(SIZES):
            train = pool[:size]
            if len(train) == size and len(np.unique(labels[train])) > 1:
                data_sets = (vectors[train], labels[train]), (vectors[test], labels[test])
                plain, balanced = (
                    score_regression(*data_sets, int(labels.max()) + 1, is_balanced) for is_balanced in (False, True)
                )
                changes[row, seed] = np.array(balanced) - plain
    return changes


def main(args: list[str]) -> None:
    """Measure all tasks and write the table."""
    options, _ = results.parse_options(args, tasks=",".join(TASKS), seeds="10", data="")
    names = options["tasks"].split(",")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nearly as many classes as rows
        changes = np.stack([measure_task(name, int(options["seeds"]), options["data"]) for name in names])
    by_task = np.nanmean(changes, 2)  # (tasks, sizes, scores)
    rows = [[name, *(f"{value:+.1f}" for value in by_task[at, :, 0])] for at, name in enumerate(names)]
    for column, score in enumerate(SCORES):
        means = [by_task[:, row, column] for row in range(len(SIZES))]
        digits = 2 if score == "log loss" else 1
        cells = [f"{m.mean():+.{digits}f} ± {results.half_interval(m):.{digits}f}" for m in means]
        rows.append([f"**mean, {score}**", *cells])
    table = results.markdown_table(["task", *(f"{size} labels" for size in SIZES)], rows)
    note = (
        f"Points of accuracy gained by balanced class weights, {options['seeds']} samples of random"
        " labels; the last rows are means over the tasks with the 95% interval."
    )
    results.write_section(
        "Few labels: balanced class weights", "python benchmarks/class_weights.py data=FOLDER", f"{note}\n\n{table}"
    )
    print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
