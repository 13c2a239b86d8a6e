"""Rows without a label, roles, and the answers of a person who labels: what is learned, measured and left out."""

import csv
import json
import logging
import random
from collections import Counter
from pathlib import Path

import pytest

from data.cache import fingerprint
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.csv_cells import make_harmless
from data.tasks.answers import ANSWER_COLUMNS, QUEUE_COLUMNS, restore
from data.tasks.splits import Example
from data.tasks.task import Task, fingerprint_inputs, read_all, read_examples, read_task
from engine.errors import DataError

HEADER = ("text", "label", "role")
LABELED = [(f"text number {number}", "ab"[number % 2], "train") for number in range(40)]
MEASURE = [(f"random text {number}", "ab"[number % 2], "measure") for number in range(12)]


def write(path: Path, rows: list[tuple], header: tuple = HEADER) -> dict:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return {"files": str(path)}


def texts(examples: list[Example]) -> set[str]:
    return {example.texts[0] for example in examples}


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("headstart"), "propagate", True)
    return lambda: [record.message for record in caplog.records]


def test_rows_with_an_empty_label_are_text_without_a_label(tmp_path, warnings):
    rows = [(text, label) for text, label, _ in LABELED]
    empty = [(f"no label {number}", " " * (number % 2)) for number in range(7)]
    mixed = Task(name="t", train=write(tmp_path / "mixed.csv", [*empty, *rows], HEADER[:2]))
    plain = Task(name="t", train=write(tmp_path / "plain.csv", rows, HEADER[:2]))
    splits, unlabeled = read_all(mixed)
    assert splits == read_task(mixed) == read_task(plain) and read_all(plain)[1] == []
    assert texts(unlabeled) == {text for text, _ in empty}
    assert warnings() == [f"{tmp_path / 'mixed.csv'}: 7 rows without a label read as unlabeled text"]


def test_an_empty_cell_is_a_label_where_any_number_of_labels_may_apply(tmp_path):
    source = write(tmp_path / "a.csv", [("one", "x"), ("two", ""), ("three", "y")], HEADER[:2])
    task = Task(name="t", train=source, problem_type="multi_label_classification")
    assert [example.label for example in read_examples(task, task.train)] == [("x",), (), ("y",)]
    numbers = Task(
        name="t", train=write(tmp_path / "n.csv", [("a", "1"), ("b", "")], HEADER[:2]), problem_type="regression"
    )
    assert read_examples(numbers, numbers.train) == [Example(("a",), 1.0)]


def test_rows_to_measure_by_are_the_test_rows_and_nothing_else(tmp_path, warnings):
    unlabeled = [("later", "", "train"), ("unsure", "", "measure"), ("TEXT number  3", "", "train")]
    task = Task(name="t", train=write(tmp_path / "a.csv", [*MEASURE, *unlabeled, *LABELED]), role="role")
    splits, others = read_all(task)
    assert texts(splits["test"]) == {text for text, *_ in MEASURE}
    assert texts(splits["train"]) | texts(splits["validation"]) == {text for text, *_ in LABELED}
    assert len(splits["train"]) + len(splits["validation"]) == len(LABELED) and texts(others) == {"later"}
    assert any("1 test row without a label left out" in line for line in warnings())
    named = Task(**{**task.model_dump(), "test": write(tmp_path / "test.csv", [("other", "a", "train")])})
    splits, others = read_all(named)
    assert texts(splits["test"]) == {"other"} and texts(others) == {"later"}
    assert not (texts(splits["train"]) | texts(splits["validation"])) & {text for text, *_ in MEASURE}


def test_rows_to_measure_by_take_no_training_rows_for_validation(tmp_path):
    many = [(f"random text {number}", "ab"[number % 2], "measure") for number in range(300)]
    for rows in (MEASURE, many):
        task = Task(name="t", train=write(tmp_path / "a.csv", [*LABELED, *rows]), role="role")
        assert {split: len(found) for split, found in read_task(task).items()} == {
            "train": 36,
            "validation": 4,
            "test": len(rows),
        }
    named = Task(**{**task.model_dump(), "test": write(tmp_path / "test.csv", [("other", "a", "train")])})
    assert len(read_task(named)["validation"]) == 4
    few = Task(**{**task.model_dump(), "train": write(tmp_path / "few.csv", [*LABELED[:4], *MEASURE])})
    with pytest.raises(DataError, match="few.csv: 4 rows are too few to split off validation rows"):
        read_task(few)
    for test in (None, write(tmp_path / "test.csv", [("other", "a", "train")])):
        alone = Task(name="t", train=write(tmp_path / "m.csv", MEASURE), role="role", test=test)
        with pytest.raises(DataError, match="m.csv: no labeled row has the role train in column 'role'"):
            read_task(alone)


def test_without_repeated_texts_no_row_to_measure_by_is_trained_on(tmp_path):
    repeated = [(text.upper(), label, "train") for text, label, _ in MEASURE[:4]]
    task = Task(name="t", train=write(tmp_path / "a.csv", [*LABELED, *MEASURE, *repeated]), role="role")
    assert texts(read_task(task)["test"]) == {text for text, *_ in MEASURE}
    assert len([row for split in ("train", "validation") for row in read_task(task)[split]]) == len(LABELED) + 4
    splits = read_task(Task(**{**task.model_dump(), "deduplicate": True}))
    assert texts(splits["test"]) == {text for text, *_ in MEASURE}
    assert texts(splits["train"] + splits["validation"]) == {text for text, *_ in LABELED}


def test_the_accuracy_is_measured_by_some_row_and_roles_are_known(tmp_path):
    with pytest.raises(DataError, match="no labeled row has the role measure .* task.role=none to split some off"):
        read_task(Task(name="t", train=write(tmp_path / "a.csv", LABELED), role="role"))
    wrong = write(tmp_path / "b.csv", [*LABELED, ("x", "a", "mesure")])
    with pytest.raises(DataError, match=r"b.csv row 41: 'mesure' in column 'role' is not a role \(nearest: measure\)"):
        read_task(Task(name="t", train=wrong, role="role"))


def test_the_last_answer_about_a_text_counts(tmp_path):
    """Also against another file, until it is undone; an undone, skipped or unsure one is no label."""
    header = ("text", *ANSWER_COLUMNS)

    def answer(text, label, answer="label", role="train"):
        return text, label, role, "2026-01-01T00:00:00Z", "1.5", answer

    answers = [
        *(answer(text, label) for text, label, _ in LABELED[:20]),
        *(answer(text, label, role=role) for text, label, role in MEASURE),
        answer(LABELED[0][0], "", "undo"),
        answer(LABELED[1][0], "", "undo"),
        answer(LABELED[1][0], "a"),
        answer(LABELED[2][0], "", "unsure"),
        answer(LABELED[3][0], "", "skip"),
        answer(make_harmless("=1+1"), "b"),
        answer(LABELED[30][0], "a"),
        answer(LABELED[31][0], "a"),
        answer(LABELED[31][0], "", "undo"),
    ]
    source = {
        "files": [
            write(tmp_path / "own.csv", LABELED[20:])["files"],
            write(tmp_path / "l.csv", answers, header)["files"],
        ]
    }
    splits, unlabeled = read_all(Task(name="t", train=source, role="role", validation_fraction=0.01), False)
    labels = {example.texts[0]: example.label for example in splits["train"]}
    expected = {text: label for text, label, _ in LABELED[4:]} | {LABELED[1][0]: "a", "=1+1": "b", LABELED[30][0]: "a"}
    assert labels == expected and len(splits["train"]) == len(expected)
    assert texts(unlabeled) == {LABELED[row][0] for row in (0, 2, 3)} and len(splits["test"]) == len(MEASURE)


def test_the_queue_is_unlabeled_text_but_for_the_rows_to_measure_by(tmp_path):
    rows = [
        (str(number), make_harmless(text), "", role, "spread", "0", "", "")
        for number, (text, role) in enumerate([("new", "train"), ("random text 99", "measure"), ("=x", "train")])
    ]
    labeled = [(str(number), text, "", "train", "spread", "0", "", "") for number, (text, *_) in enumerate(LABELED)]
    suspects = [
        (str(number), text, "a", "train", "suspect", "0", "b", "0.9")
        for number, text in enumerate([LABELED[0][0], "of another file"])
    ]
    queue = write(tmp_path / "queue.csv", [*suspects, *rows, *labeled], ("id", "text", *QUEUE_COLUMNS))
    train = write(tmp_path / "a.csv", [*LABELED, *MEASURE])
    task = Task(name="t", train=train, unlabeled=queue, role="role")
    splits, unlabeled = read_all(task)
    assert texts(unlabeled) == {"new", "=x", "of another file"} and {example.label for example in unlabeled} == {""}
    assert splits == read_task(Task(name="t", train=train, role="role"))
    plain = Task(name="t", train=train, unlabeled={"files": write(tmp_path / "p.csv", [("p",)], ("text",))["files"]})
    assert texts(read_all(plain)[1]) == {"p"}
    assert fingerprint(fingerprint_inputs(plain)) != fingerprint(fingerprint_inputs(Task(name="t", train=train)))


def test_a_corpus_of_a_task_has_the_texts_without_a_label_but_none_to_measure_by(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [*LABELED, *MEASURE, ("one more text without a label", "", ""), ("one to measure by", "", "measure")]
    task = {"name": "t", "train": write(tmp_path / "rows.csv", rows), "role": "role"}
    Path("task.yaml").write_text(json.dumps({"run": "r", "task": task}))
    folder = build_corpus(Corpus(name="c", sources=[{"task": "task.yaml"}]))
    found = {document["text"] for document in iter_documents(folder)}
    assert found == texts(read_task(Task(**task))["train"]) | {"one more text without a label"}


def test_a_class_of_test_rows_alone_is_an_error_of_the_model(tmp_path, warnings):
    test = write(
        tmp_path / "test.csv", [("t 1", "a", ""), ("t 2", "zebra", ""), ("t 3", "yak", ""), ("t 4", "yak", "")]
    )
    task = Task(name="t", train=write(tmp_path / "a.csv", LABELED), test=test)
    splits = read_task(task)
    assert warnings() == [
        f"{tmp_path / 'test.csv'}: 3 test rows of classes that no training row has count as errors: 'yak', 'zebra'"
    ]
    problem_type = task.load_problem_type()
    ids = problem_type.encode_labels(splits["test"], ["a", "b"])
    assert ids.tolist() == [0, 2, 3, 3]
    right = [[0.9, 0.1]] * 4
    metrics = problem_type.compute_metrics(right, ids, ["a", "b"], {})
    assert metrics["accuracy"] == 0.25 and metrics["n"] == 4
    # Of the classes that are true or predicted, one has an F1 of 2 / 5, and two have none.
    assert metrics["f1_macro"] == pytest.approx(0.4 / 3)
    assert problem_type.test_details(right, ids, ["a", "b"])["confusion_matrix"]["counts"] == [[1, 0], [0, 0]]
    assert problem_type.test_details(right[1:], ids[1:], ["a", "b"]) == {}


def test_classes_of_test_rows_alone_that_look_alike_are_no_misspelling_of_a_known_one(tmp_path, warnings):
    test = write(tmp_path / "test.csv", [("t 1", "a", ""), ("t 2", "Yak", ""), ("t 3", "yak", "")])
    read_task(Task(name="t", train=write(tmp_path / "a.csv", LABELED), test=test))
    (warning,) = warnings()
    assert warning.endswith("2 test rows of classes that no training row has count as errors: 'Yak', 'yak'")


@pytest.mark.parametrize("kind", ["multi_label_classification", "token_classification"])
def test_other_labels_of_test_rows_alone_are_refused(tmp_path, kind):
    label = "label" if kind.startswith("multi") else "tags"
    path, test = tmp_path / "a.jsonl", tmp_path / "test.jsonl"
    tags = {"tokens": ["Anna", "in"], "text": "Anna in"}
    rows = [{**tags, "label": ["xy"[n % 2]], "tags": [f"B-{'xy'[n % 2]}", "O"], "text": f"Anna {n}"} for n in range(40)]
    rows = [{**row, "tokens": row["text"].split()} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text(json.dumps({**tags, "label": ["new"], "tags": ["B-new", "O"]}) + "\n")
    text = "text" if kind.startswith("multi") else "tokens"
    sources = {"train": {"files": str(path)}, "test": {"files": str(test)}}
    with pytest.raises(DataError, match="new' .*does not occur in the training rows"):
        read_task(Task(name="t", problem_type=kind, text=text, label=label, **sources))


def test_classes_are_ordered_as_they_are_named(tmp_path):
    task = Task(name="t", train=write(tmp_path / "a.csv", LABELED), classes=["b", "c", "a"])
    present = Counter(example.label for example in read_task(task)["train"])
    assert task.load_problem_type().list_label_names(task, set(present)) == ["b", "a"]


@pytest.mark.parametrize(
    "cell", ["=1+1", "-5", "+a", "@x", "'quoted'", "plain", "", "\tx", "'", "-1.5e3", "'@bob", "''=a", "'-5"]
)
def test_a_cell_is_restored(cell):
    assert restore(make_harmless(cell)) == cell
    assert restore("'@as before") == "@as before"


def test_any_cell_is_restored_and_none_starts_a_formula():
    draw = random.Random(0)
    for _ in range(5_000):
        cell = "".join(draw.choices("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff201. \"a", k=draw.randrange(5)))
        harmless = make_harmless(cell)
        assert restore(harmless) == cell
        assert harmless[:1] not in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") or float(harmless) is not None


def test_fingerprints_of_older_tasks_stay(tmp_path):
    """The keys of roles, classes and unlabeled text are in a fingerprint only if they are set."""
    source = write(tmp_path / "a.csv", LABELED)
    inputs = fingerprint_inputs(Task(name="t", train=source))
    assert not inputs.keys() & {"role", "classes", "unlabeled"}
    assert fingerprint_inputs(Task(name="t", train=source, role="role"))["role"] == "role"
