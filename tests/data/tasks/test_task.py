"""Labelled rows: their splits, the few that are taken, and the documents of a corpus."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.cache import read_manifest
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.tasks.task import Example, Task, list_label_names, normalize, read_task, sample_examples
from engine.errors import ConfigError, DataError

MADE = [(f"text number {number}", "ab"[number % 5 < 2]) for number in range(1_000)]


def write(path: Path, rows: list[tuple], header: tuple = ("text", "label")) -> dict:
    """Rows as a csv; returns the source that reads it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return {"files": str(path)}


def splits_of(folder: Path, rows: list[tuple], **task) -> dict[str, list[Example]]:
    return read_task(Task(name="t", train=write(folder / "rows.csv", rows), **task))


def made(*sizes: int) -> list[Example]:
    """Examples of classes of these sizes."""
    return [Example((f"{label} {number}",), str(label)) for label, size in enumerate(sizes) for number in range(size)]


def labels(examples: list[Example]) -> Counter:
    return Counter(example.label for example in examples)


def test_splits_have_the_shares_that_are_asked_for_in_each_label(tmp_path):
    splits = splits_of(tmp_path, MADE)
    assert {name: labels(rows) for name, rows in splits.items()} == {
        "train": {"a": 450, "b": 300},
        "validation": {"a": 75, "b": 50},
        "test": {"a": 75, "b": 50},
    }
    splits = splits_of(tmp_path, MADE, validation_share=0.2, test_share=0.1)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 700, "validation": 200, "test": 100}


def test_a_text_lands_in_the_same_split_whatever_the_order(tmp_path):
    first = {name: set(rows) for name, rows in splits_of(tmp_path, MADE).items()}
    shuffled = [MADE[index] for index in np.random.default_rng(0).permutation(1_000)]
    assert {name: set(rows) for name, rows in splits_of(tmp_path, shuffled).items()} == first
    assert set.union(*first.values()) == {Example((text,), label) for text, label in MADE}
    assert sum(map(len, first.values())) == 1_000


def test_splits_of_their_own_are_taken_whole(tmp_path):
    own = write(tmp_path / "own.csv", [("own 1", "a"), ("own 2", "b")])
    splits = splits_of(tmp_path, MADE, test=own)
    assert (len(splits["test"]), len(splits["validation"]), len(splits["train"])) == (2, 125, 875)
    splits = splits_of(tmp_path, MADE, test=own, validation=own)
    assert splits["test"] == splits["validation"] and len(splits["train"]) == 1_000


def test_rows_that_stand_twice_are_dropped_when_asked(tmp_path):
    rows = [*MADE[:40], *((text.upper().replace(" ", "  ") + " ", label) for text, label in MADE[:40])]
    assert sum(map(len, splits_of(tmp_path, rows).values())) == 80
    splits = splits_of(tmp_path, rows, deduplicate=True)
    kept = sorted(normalize(example.texts) for part in splits.values() for example in part)
    assert kept == sorted(text for text, _ in MADE[:40])


def test_a_test_source_that_holds_the_training_rows_too(tmp_path):
    """Each training row is taken away once: a text that stands in both splits is left in the test rows."""
    train = [*MADE[:40], ("stands in both", "a"), ("twice in training", "b"), ("twice in training", "b")]
    test = [*MADE[100:130], ("stands in both", "a"), ("twice in training", "b")]
    mixed = [("  Text   NUMBER 0", "a"), *train[1:], *test]
    mixed = [mixed[index] for index in np.random.default_rng(0).permutation(len(mixed))]
    own, every = write(tmp_path / "test.csv", test), write(tmp_path / "mixed.csv", mixed)
    expected = splits_of(tmp_path, train, test=own)
    found = splits_of(tmp_path, train, test=every, test_holds_train=True)
    assert Counter(found["test"]) == Counter(expected["test"]) and len(found["test"]) == 32
    assert (found["train"], found["validation"]) == (expected["train"], expected["validation"])
    assert len(splits_of(tmp_path, train, test=every)["test"]) == len(mixed)


def test_columns_of_two_sources_are_called_the_same(tmp_path):
    test = {
        **write(tmp_path / "t.csv", [("one", "a"), ("two", "b")], ("body", "gold")),
        "rename": {"body": "text", "gold": "label"},
    }
    assert splits_of(tmp_path, MADE, test=test)["test"] == [Example(("one",), "a"), Example(("two",), "b")]


def test_pairs_and_label_names(tmp_path):
    rows = [(f"p{number}", f"h{number}", "01"[number % 2]) for number in range(40)]
    source = write(tmp_path / "p.csv", rows, ("one", "two", "gold"))
    task = Task(name="t", train=source, text=["one", "two"], label="gold", label_names={"1": "yes", "0": "no"})
    splits = read_task(task)
    assert set(splits["train"]) <= {Example((one, two), {"0": "no", "1": "yes"}[gold]) for one, two, gold in rows}
    assert list_label_names(task, splits) == ["yes", "no"]
    assert list_label_names(Task(name="t", train=task.train), splits) == ["no", "yes"]


@pytest.mark.parametrize("sizes", [(600, 400), (7, 7, 3), (500, 30, 5, 1), (1, 1, 1)])
def test_few_is_stratified_nested_and_by_seed(sizes):
    examples = made(*sizes)
    before: set[Example] = set()
    for count in [*range(len(sizes), len(examples), 1 + len(examples) // 100), len(examples)]:
        taken = sample_examples(examples, count, seed=0)
        assert len(taken) == len(set(taken)) == count and before <= set(taken) <= set(examples)
        for label, size in labels(examples).items():
            # One of each class is set aside first; the rest is in proportion, to within a row of each class.
            share = 1 + (count - len(sizes)) * (size - 1) / max(1, len(examples) - len(sizes))
            assert 1 <= labels(taken)[label] and abs(labels(taken)[label] - share) < 2
        before = set(taken)
    assert before == set(sample_examples(examples, "all", seed=0)) == set(examples)


def test_few_differs_by_seed():
    examples = made(300, 300)
    assert sample_examples(examples, 20, seed=1) == sample_examples(examples, 20, seed=1)
    assert len(set(sample_examples(examples, 20, seed=1)) & set(sample_examples(examples, 20, seed=2))) < 10


def test_few_refuses_too_many_and_too_few():
    with pytest.raises(ConfigError, match=r"^task.num_examples=11: there are 10 training rows; give a smaller number"):
        sample_examples(made(5, 5), 11, seed=0)
    with pytest.raises(ConfigError, match=r"^task.num_examples=2: fewer than the 3 classes; give 3 or more$"):
        sample_examples(made(5, 5, 5), 2, seed=0)


@pytest.mark.parametrize(
    "rows, keys, told",
    [
        ([("a", "x"), (" ", "y")], {}, "{0} row 2: no text in column 'text'"),
        ([("a", "x"), ("b", "")], {}, "{0} row 2: no label in column 'label'"),
        (
            [("a", "pos"), ("b", "nag")],
            {"label_names": {"pos": "1", "neg": "0"}},
            "{0} row 2: label 'nag' has no name in task.label_names (nearest: neg)",
        ),
        ([("a", "x")], {"text": "txt"}, "{0}: no column 'txt' (nearest: text)"),
        ([("a", "x")], {"label": "lable"}, "{0}: no column 'lable' (nearest: label)"),
        ([], {}, "{0}: no rows"),
        (
            [(f"t{number}", "x") for number in range(40)],
            {},
            "{0}: every row has the label 'x'; a classifier needs two classes or more",
        ),
        ([("a", "x"), ("b", "y")], {}, "{0}: 2 rows are too few to split off validation rows"),
        (
            [(f"t{number}", "xy"[number % 2]) for number in range(40)],
            {"test": [("a", "x"), ("b", "yy"), ("c", "yy")]},
            "{1}: label 'yy' (2 test rows) is never seen in training (nearest: y)",
        ),
    ],
)
def test_what_is_wrong_with_rows_is_told(tmp_path, rows, keys, told):
    if "test" in keys:
        keys = {**keys, "test": write(tmp_path / "test.csv", keys["test"])}
    with pytest.raises(DataError) as caught:
        splits_of(tmp_path, rows, **keys)
    assert str(caught.value) == told.format(tmp_path / "rows.csv", tmp_path / "test.csv")


def test_no_rows_left_by_where_is_told(tmp_path):
    source = {**write(tmp_path / "rows.csv", MADE[:10]), "where": {"label": "c"}}
    with pytest.raises(DataError, match=r"no rows where \{'label': 'c'\}$"):
        read_task(Task(name="t", train=source))


def test_documents_are_cleaned_counted_and_taken_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = write(tmp_path / "a.csv", [("Hello<br>you", "x"), ("  ", "x"), ("hello\nYOU", "x"), ("two words", "x")])
    second = write(tmp_path / "b.csv", [("two  words", "x"), ("news", "x")])
    corpus = Corpus(name="c", sources=[first, {**second, "weight": 3}])
    folder = build_corpus(corpus)
    assert list(iter_documents(folder)) == [
        {"text": "Hello\nyou", "copies": 1},
        {"text": "two words", "copies": 1},
        {"text": "news", "copies": 3},
    ]
    told = read_manifest(folder)
    assert {key: told["read"][key] for key in ("files", "rows", "empty", "documents", "problems")} == {
        "files": 2,
        "rows": 6,
        "empty": 1,
        "documents": 5,
        "problems": [],
    }
    assert told["dropped"]["exact duplicate"] == {"documents": 2, "words": 4}
    assert told["kept"] == {"documents": 3, "words": 5}
    assert build_corpus(corpus) == folder
    write(tmp_path / "b.csv", [("other", "x")])
    assert build_corpus(corpus) != folder


def test_a_corpus_takes_the_training_texts_of_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = {"name": "t", "train": write(tmp_path / "rows.csv", MADE[:80])}
    Path("task.yaml").write_text(json.dumps({"run": "r", "task": task}))
    folder = build_corpus(Corpus(name="c", sources=[{"task": "task.yaml"}]))
    assert {d["text"] for d in iter_documents(folder)} == {e.texts[0] for e in read_task(Task(**task))["train"]}


def test_a_corpus_without_text_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^corpus c: no text in .*e.csv \(1 rows read, all empty\)$"):
        build_corpus(Corpus(name="c", sources=[write(tmp_path / "e.csv", [(" ", "x")])]))
    assert not list(Path("out/corpus").glob("c-*"))
