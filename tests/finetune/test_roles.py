"""Fine-tuning on what a person labeled: roles, rows without a label, unseen classes, and how well it is measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import error_lines

from engine.files import read_json
from finetune.__main__ import main
from publish.card.results import confidence_interval, count_more_rows, describe_interval

SHORT = ["train.max_steps=3", "train.min_steps=2", "train.precision=float32", "max_length=16", "baselines=false"]


def sentence(number: int, label: str) -> str:
    return f"{'good film' if label == 'liked' else 'bad meal'} number {number}"


def write_labels(path: Path, num_train: int, num_measure: int, more: list[tuple] = ()) -> None:
    labels = ["liked", "disliked"]
    rows = [(sentence(n, labels[n % 2]), labels[n % 2], "train") for n in range(num_train)]
    rows += [(sentence(n, labels[n % 2]), labels[n % 2], "measure") for n in range(1000, 1000 + num_measure)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "role"), *rows, *more])


def test_a_model_is_measured_on_the_random_rows_alone(workspace, tiny, capsys, monkeypatch):
    """With unlabeled text, method=auto takes self-training; more labels need another run."""
    more = [("an odd thing", "odd", "measure"), ("words without a label", "", ""), ("skipped", "", "measure")]
    write_labels(workspace / "labels.csv", 24, 15, more)
    (workspace / "pool.csv").write_text("text\n" + "".join(f"film or meal {n}\n" for n in range(220)) + "skipped\n")
    args = ["configs/finetune/default.yaml", "run=x", f"encoder={tiny}", "task.name=t", "task.train.files=labels.csv"]
    args += ["task.role=role", "task.unlabeled.files=pool.csv", *SHORT]
    main(args)
    captured = capsys.readouterr()
    assert "method  selftrain: 10 labels per class, 222 unlabeled texts" in captured.out
    assert "1 row without a label read as unlabeled text" in captured.err
    metrics = read_json(workspace / "out/runs/x/metrics.json")
    assert metrics["test"]["n"] == 16 and metrics["num_train_examples"] == 24
    assert metrics["test_rows"]["random"] and metrics["test_rows"]["unseen_labels"] == {"odd": 1}
    assert metrics["test"]["accuracy"] <= 15 / 16
    (line,) = describe_interval(metrics)
    low, high = (round(100 * end) for end in confidence_interval("accuracy", metrics["test"]["accuracy"], 16))
    assert line.startswith(f"measured on 16 random rows: accuracy {low} to {high}% (95% interval); ") and line.endswith(
        " more rows would halve the interval"
    )
    unseen = "counted as errors, because no training row has their class: test rows of odd (1)"
    shown = (workspace / "out/runs/x/report.html").read_text() + (workspace / "out/runs/x/model/README.md").read_text()
    assert line in captured.out and unseen in captured.out and shown.count(line) == 2 and shown.count(unseen) == 2
    pseudo_labeled = json.loads((workspace / "out/runs/x/round-1/labels.json").read_text())
    assert len(pseudo_labeled["indices"]) > 50
    main(args)
    assert "out/runs/x is finished" in capsys.readouterr().out
    write_labels(workspace / "labels.csv", 28, 15, more)
    assert error_lines(main, args, capsys, monkeypatch)[-2:] == [
        "out/runs/x: is finished, and was started with another labels.",
        "Choose another name, run=x-2, or delete it.",
    ]
    for changed in ([], ["train.max_steps=2"]):  # the results that are there would be shown as new ones
        lines = error_lines(main, [*args, *changed, "allow_changes=true"], capsys, monkeypatch)
        assert lines[-2].startswith("out/runs/x: is finished, and was started with ") and "delete it" in lines[-1]


def test_few_rows_of_many_classes_need_no_validation_rows(workspace, tiny, capsys):
    rows = [(f"text {number} of kind {number % 73}", f"kind {number % 73}") for number in range(128)]
    with open("rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    (workspace / "test.csv").write_text("text,label\ntext 5 of kind 5,kind 5\nother,kind 99\n")
    args = ["configs/finetune/default.yaml", "run=x", f"encoder={tiny}", "task.name=t", "task.train.files=rows.csv"]
    main([*args, "task.test.files=test.csv", *SHORT])
    metrics = read_json(workspace / "out/runs/x/metrics.json")
    assert metrics["num_train_examples"] == 128 and "validation" not in metrics
    assert "method  fewshot-probe: 1.53 labels per class of 73 classes" in capsys.readouterr().out


def test_answers_are_found_by_the_short_command(workspace, tiny, capsys, monkeypatch):
    from data.tasks.answers import ANSWER_COLUMNS

    def row(number: int) -> tuple:
        label = ["liked", "disliked"][number % 2]
        role = "measure" if number % 4 < 2 else "train"
        return sentence(number, label), label, role, f"2026-01-01T00:00:{number:02}Z", "1", "label"

    with open("mine.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", *ANSWER_COLUMNS), *map(row, range(40))])
    main(["labels=mine.csv", f"encoder={tiny}", "method=probe", "train.load_best=false", *SHORT])
    shown = capsys.readouterr().out
    assert "measured on 20 random rows" in shown and "make explore MODEL=out/runs/mine  chooses" in shown
    assert "role: role" in Path("out/runs/mine/arguments.yaml").read_text()


def wilson(share: float, count: int) -> tuple[float, float]:
    """Solve (share - p)² = z² p (1 - p) / n for p."""
    z, low, high = 1.959964, 0.0, 1.0
    ends = []
    for start, end in ((low, share), (share, high)):
        for _ in range(200):
            middle = (start + end) / 2
            is_inside = (share - middle) ** 2 <= z**2 * middle * (1 - middle) / count
            if (middle < share) == is_inside:
                end = middle
            else:
                start = middle
        ends.append((start + end) / 2)
    return ends[0], ends[1]


@pytest.mark.parametrize("share, count", [(27 / 32, 32), (0.5, 10), (0.94, 400), (1 / 16, 16)])
def test_the_rows_that_halve_an_interval(share, count):
    low, high = confidence_interval("accuracy", share, count)
    assert (low, high) == pytest.approx(wilson(share, count), abs=1e-6)
    more = count_more_rows(share, count)

    def width(rows: int) -> float:
        low, high = wilson(share, rows)
        return high - low

    assert width(count + more) <= width(count) / 2 + 1e-9 and (
        width(count + more - 1) > width(count) / 2 or more == count
    )
    assert math.isclose(more, 3 * count, rel_tol=0.5)


def test_an_interval_is_described_where_it_is_wide_or_its_rows_random():
    metrics = {"problem_type": "single_label_classification", "test": {"accuracy": 0.75, "n": 12}}
    assert describe_interval(metrics) == [
        "measured on 12 rows: accuracy 47 to 91% (95% interval); 45 more rows would halve the interval"
    ]
    assert describe_interval({**metrics, "test": {"accuracy": 0.75, "n": 2000}}) == []
    assert describe_interval({**metrics, "test": {"accuracy": 0.75, "n": 2000}, "test_rows": {"random": True}})
    assert describe_interval({**metrics, "problem_type": "regression"}) == describe_interval({}) == []


def test_the_interval_of_random_rows_holds_the_truth():
    """For the accuracies and the numbers of rows of simulated people: in 90 of 100 cases and more, exactly computed."""
    from scipy.stats import binom

    for count in (16, 32, 64):
        covered = []
        for truth in np.linspace(0.5, 0.97, 48):
            right = np.arange(count + 1)
            ends = np.array([confidence_interval("accuracy", k / count, count) for k in right])
            holds = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
            covered.append(binom.pmf(right, count, truth)[holds].sum())
        assert np.mean(covered) > 0.93 and min(covered) > 0.8
