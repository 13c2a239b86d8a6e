"""Labeled rows: splits, samples and error messages; and the documents of a corpus."""

import csv
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data.cache import read_manifest
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.tasks.label_checks import find_similar_labels
from data.tasks.task import (
    Example,
    Task,
    list_label_names,
    normalize,
    read_examples,
    read_source,
    read_task,
    sample_examples,
)
from engine.errors import ConfigError, DataError

ROWS = [(f"text number {number}", "ab"[number % 5 < 2]) for number in range(1_000)]


def write(path: Path, rows: list[tuple], header: tuple = ("text", "label")) -> dict:
    """Write rows as a CSV file and return its source."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return {"files": str(path)}


def splits_of(folder: Path, rows: list[tuple], **task) -> dict[str, list[Example]]:
    return read_task(Task(name="t", train=write(folder / "rows.csv", rows), **task))


def examples_of(*sizes: int) -> list[Example]:
    """Examples with classes of the given sizes."""
    return [Example((f"{label} {number}",), str(label)) for label, size in enumerate(sizes) for number in range(size)]


def labels(examples: list[Example]) -> Counter:
    return Counter(example.label for example in examples)


def test_split_fractions_hold_within_each_class(tmp_path):
    splits = splits_of(tmp_path, ROWS)
    assert {name: labels(rows) for name, rows in splits.items()} == {
        "train": {"a": 450, "b": 300},
        "validation": {"a": 75, "b": 50},
        "test": {"a": 75, "b": 50},
    }
    splits = splits_of(tmp_path, ROWS, validation_fraction=0.2, test_fraction=0.1)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 700, "validation": 200, "test": 100}


def test_splits_do_not_depend_on_the_order_of_rows(tmp_path):
    first = {name: set(rows) for name, rows in splits_of(tmp_path, ROWS).items()}
    shuffled = [ROWS[index] for index in np.random.default_rng(0).permutation(1_000)]
    assert {name: set(rows) for name, rows in splits_of(tmp_path, shuffled).items()} == first
    assert set.union(*first.values()) == {Example((text,), label) for text, label in ROWS}
    assert sum(map(len, first.values())) == 1_000


def test_separate_sources_are_used_whole(tmp_path):
    other = write(tmp_path / "other.csv", [("other 1", "a"), ("other 2", "b")])
    splits = splits_of(tmp_path, ROWS, test=other)
    assert (len(splits["test"]), len(splits["validation"]), len(splits["train"])) == (2, 125, 875)
    splits = splits_of(tmp_path, ROWS, test=other, validation=other)
    assert splits["test"] == splits["validation"] and len(splits["train"]) == 1_000


def test_deduplicate_drops_repeated_rows(tmp_path):
    rows = [*ROWS[:40], *((text.upper().replace(" ", "  ") + " ", label) for text, label in ROWS[:40])]
    assert sum(map(len, splits_of(tmp_path, rows).values())) == 80
    splits = splits_of(tmp_path, rows, deduplicate=True)
    texts = sorted(normalize(example.texts) for split in splits.values() for example in split)
    assert texts == sorted(text for text, _ in ROWS[:40])


def test_training_rows_are_removed_from_a_test_source_that_includes_them(tmp_path):
    """Each training row is removed once: a text in both splits stays in the test rows."""
    train = [*ROWS[:40], ("in both", "a"), ("twice in training", "b"), ("twice in training", "b")]
    test = [*ROWS[100:130], ("in both", "a"), ("twice in training", "b")]
    mixed = [("  Text   NUMBER 0", "a"), *train[1:], *test]
    mixed = [mixed[index] for index in np.random.default_rng(0).permutation(len(mixed))]
    test_only, both = write(tmp_path / "test.csv", test), write(tmp_path / "mixed.csv", mixed)
    expected = splits_of(tmp_path, train, test=test_only)
    splits = splits_of(tmp_path, train, test=both, test_holds_train=True)
    assert Counter(splits["test"]) == Counter(expected["test"]) and len(splits["test"]) == 32
    assert (splits["train"], splits["validation"]) == (expected["train"], expected["validation"])
    assert len(splits_of(tmp_path, train, test=both)["test"]) == len(mixed)
    with pytest.raises(DataError, match="train.csv: every test row is a training row, and is left out; name others"):
        splits_of(tmp_path, train, test=write(tmp_path / "train.csv", train), test_holds_train=True)


def test_columns_can_be_renamed_per_source(tmp_path):
    source = write(tmp_path / "t.csv", [("one", "a"), ("two", "b")], ("body", "gold"))
    test = {**source, "rename": {"body": "text", "gold": "label"}}
    assert splits_of(tmp_path, ROWS, test=test)["test"] == [Example(("one",), "a"), Example(("two",), "b")]


def test_pairs_and_label_names(tmp_path):
    rows = [(f"p{number}", f"h{number}", "01"[number % 2]) for number in range(40)]
    source = write(tmp_path / "p.csv", rows, ("one", "two", "gold"))
    task = Task(name="t", train=source, text=["one", "two"], label="gold", label_names={"1": "yes", "0": "no"})
    splits = read_task(task)
    assert set(splits["train"]) <= {Example((one, two), {"0": "no", "1": "yes"}[gold]) for one, two, gold in rows}
    assert list_label_names(task, splits) == ["yes", "no"]
    assert list_label_names(Task(name="t", train=task.train), splits) == ["no", "yes"]


@pytest.mark.parametrize("sizes", [(600, 400), (7, 7, 3), (500, 30, 5, 1), (1, 1, 1)])
def test_samples_are_stratified_and_nested(sizes):
    examples = examples_of(*sizes)
    before: set[Example] = set()
    for count in [*range(len(sizes), len(examples), 1 + len(examples) // 100), len(examples)]:
        sample = sample_examples(examples, count, seed=0)
        assert len(sample) == len(set(sample)) == count and before <= set(sample) <= set(examples)
        for label, size in labels(examples).items():
            # One of each class comes first; the rest is in proportion, within one row.
            expected = 1 + (count - len(sizes)) * (size - 1) / max(1, len(examples) - len(sizes))
            assert 1 <= labels(sample)[label] and abs(labels(sample)[label] - expected) < 2
        before = set(sample)
    assert before == set(sample_examples(examples, "all", seed=0)) == set(examples)


def test_a_reserve_is_used_after_all_other_rows():
    examples, reserve = examples_of(9, 3), [Example((f"more {number}",), "1") for number in range(2)]
    sample = sample_examples(examples, None, 0, shots=4, reserve=reserve)
    assert labels(sample) == {"0": 4, "1": 4} and len(set(sample) & set(reserve)) == 1
    assert [row for row in sample if row.label == "0"] == sample_examples(examples, None, 0, shots=4)[:4]
    assert sample_examples(examples, 12, 0, reserve=reserve) == sample_examples(examples, 12, 0)
    assert Counter(sample_examples(examples, 14, 0, reserve=reserve)) == Counter(examples + reserve)
    with pytest.raises(ConfigError, match="only 12 training rows"):
        sample_examples(examples, 15, 0, reserve=reserve)


def test_classes_of_a_few_rows_are_split_across_classes(tmp_path):
    """Three rows of each of a hundred classes: an eighth of a class is no row, and every class keeps one to learn."""
    rows = [(f"text {number} of {label}", f"class {label}") for label in range(100) for number in range(3)]
    splits = splits_of(tmp_path, rows)
    assert {name: len(found) for name, found in splits.items()} == {"train": 224, "validation": 38, "test": 38}
    assert len(labels(splits["train"])) == 100
    assert splits_of(tmp_path, rows[::-1])["test"] == splits["test"]


def test_four_rows_of_a_class_are_enough_without_validation_rows(tmp_path):
    rows, test = [(f"text {number}", "ab"[number % 2]) for number in range(8)], write(tmp_path / "t.csv", [("a", "a")])
    task = Task(name="t", train=write(tmp_path / "rows.csv", rows), test=test)
    with pytest.raises(DataError, match="8 rows are too few to split off validation rows; train.load_best=false"):
        read_task(task)
    assert len(read_task(task, needs_validation=False)["train"]) == 8


def test_rows_without_text_are_left_out_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("headstart"), "propagate", True)
    splits = splits_of(tmp_path, [*ROWS[:40], ("", "a"), (" \n", "not a class")])
    assert sum(map(len, splits.values())) == 40
    assert f"{tmp_path / 'rows.csv'}: 2 rows without text left out" in caplog.text


def test_one_number_among_texts_is_a_text_and_a_column_of_numbers_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": number, "text": f"t {number}", "label": "x"} for number in range(3)] + [{"text": 404, "label": "y"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task(name="t", train={"files": str(path)})
    assert read_examples(task, task.train)[3] == Example(("404",), "y")
    with pytest.raises(DataError, match="a.jsonl row 1: column 'id' holds numbers, not texts; set task.text=COLUMN"):
        read_examples(Task(name="t", train=task.train, text="id"), task.train)


def test_lists_without_a_label_are_empty_cells(tmp_path):
    path = tmp_path / "a.jsonl"
    cells = ["x", ["y"], [], [""], "[]", '[""]', "['']"]
    path.write_text("".join(json.dumps({"text": "a", "label": cell}) + "\n" for cell in cells))
    task = Task(name="t", train={"files": str(path)})
    found = read_source(task, task.train)
    assert [example.label for example in found.labeled] == ["x", "y"] and len(found.unlabeled) == 5


def test_a_column_for_each_label(tmp_path):
    rows = [("a", "1", "0", ""), ("b", "0", "FALSE", "0"), ("c", "1.0", "True", "TRUE")]
    source = write(tmp_path / "a.csv", rows, ("text", "toxic", "insult", "threat"))
    keys = {"train": source, "label": ["toxic", "insult", "threat"], "problem_type": "multi_label_classification"}
    task = Task(name="t", **keys)
    examples = read_examples(task, task.train)
    assert [example.label for example in examples] == [("toxic",), (), ("toxic", "insult", "threat")]
    assert list_label_names(task, {"train": examples}) == ["toxic", "insult", "threat"]
    write(tmp_path / "a.csv", [*rows, ("d", "-1", "0", "0")], ("text", "toxic", "insult", "threat"))
    with pytest.raises(DataError, match="row 4: column 'toxic' holds '-1'; a column for each label holds 0 or 1"):
        read_examples(task, task.train)
    with pytest.raises(ValidationError, match="a column for each label needs task.problem_type=multi_label"):
        Task(name="t", train=source, label=["toxic", "insult"])


def test_multi_hot_lists_get_the_names_in_order(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": "a", "label": row}) + "\n" for row in ([1, 0, 1], [0.0, 0.0, 0.0], [0, 1, 0]))
    )
    keys = {"train": {"files": str(path)}, "problem_type": "multi_label_classification"}
    task = Task(name="t", label_names=["x", "y", "z"], **keys)
    assert [example.label for example in read_examples(task, task.train)] == [("x", "z"), (), ("y",)]
    path.write_text(json.dumps({"text": "a", "label": "TRUE,FALSE,TRUE"}) + "\n")
    assert read_examples(task, task.train)[0].label == ("x", "z")
    # Two numbers of classes are not taken for zeros and ones.
    path.write_text(json.dumps({"text": "a", "label": [0, 1]}) + "\n")
    task = Task(name="t", label_names=["x", "y"], **keys)
    assert read_examples(task, task.train)[0].label == ("x", "y")


def test_samples_differ_by_seed():
    examples = examples_of(300, 300)
    assert sample_examples(examples, 20, seed=1) == sample_examples(examples, 20, seed=1)
    assert len(set(sample_examples(examples, 20, seed=1)) & set(sample_examples(examples, 20, seed=2))) < 10


def test_samples_too_large_or_too_small_are_refused():
    with pytest.raises(ConfigError, match=r"^task.num_examples=11: only 10 training rows; give a smaller number"):
        sample_examples(examples_of(5, 5), 11, seed=0)
    with pytest.raises(ConfigError, match=r"^task.num_examples=2: fewer than the 3 classes; give 3 or more$"):
        sample_examples(examples_of(5, 5, 5), 2, seed=0)


@pytest.mark.parametrize(
    "rows, keys, message",
    [
        (
            [("a", "x"), (" ", "y")],
            {"require_text": True},
            "{0} row 2: no text in column 'text'; task.require_text=false leaves such rows out",
        ),
        ([(" ", "x"), ("", "y")], {}, "{0}: no rows with text"),
        ([("a", ""), ("b", " ")], {}, "{0}: none of 2 rows has a label in column 'label'"),
        ([("a", "x"), ("b", "z")], {"classes": ["x", "y"]}, "{0}: label 'z' is not in task.classes (there are: x, y)"),
        (
            [("a", "x"), ("b", "y")],
            {"role": "rolle"},
            "{0}: no column 'rolle'; set task.role to the column of roles, or to none",
        ),
        (
            [("a", "pos"), ("b", "nag")],
            {"label_names": {"pos": "1", "neg": "0"}},
            "{0} row 2: label 'nag' has no name in task.label_names (nearest: neg)",
        ),
        ([("a", "x")], {"text": "txt"}, "{0} row 1: no column 'txt' (nearest: text); set task.text=text"),
        ([("a", "x")], {"label": "lable"}, "{0} row 1: no column 'lable' (nearest: label); set task.label=label"),
        ([], {}, "{0}: no rows"),
        (
            [(f"t{number}", "x") for number in range(40)],
            {},
            "{0}: every row has the label 'x'; a classifier needs at least two classes",
        ),
        (
            [("a", "x"), ("b", "y")],
            {},
            "{0}: 2 rows are too few to split off validation rows; train.load_best=false (or METHOD=fewshot) uses none",
        ),
        (
            [(f"t{number}", "xy"[number % 2]) for number in range(40)],
            {"test": [("a", "x"), ("b", "Y"), ("c", "Y")]},
            "{1}: label 'Y' (2 test rows) does not occur in the training rows (there are: x, y)",
        ),
        (
            [(f"t{number}", "xy"[number % 2]) for number in range(40)],
            {"validation": [("a", "x"), ("b", "yy"), ("c", "yy")], "test": [("a", "x")]},
            "{2}: label 'yy' (2 validation rows) does not occur in the training rows (nearest: y)",
        ),
    ],
)
def test_invalid_rows_are_reported(tmp_path, rows, keys, message):
    for split in keys.keys() & {"test", "validation"}:
        keys = {**keys, split: write(tmp_path / f"{split}.csv", keys[split])}
    with pytest.raises(DataError) as caught:
        splits_of(tmp_path, rows, **keys)
    assert str(caught.value) == message.format(*(tmp_path / f"{name}.csv" for name in ("rows", "test", "validation")))


def test_a_where_that_matches_no_rows_is_reported(tmp_path):
    source = {**write(tmp_path / "rows.csv", ROWS[:10]), "where": {"label": "c"}}
    with pytest.raises(DataError, match=r"no rows where \{'label': 'c'\}$"):
        read_task(Task(name="t", train=source))


def test_documents_are_cleaned_counted_and_deduplicated(tmp_path, monkeypatch):
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
    manifest = read_manifest(folder)
    assert {key: manifest["read"][key] for key in ("files", "rows", "empty_rows", "documents", "problems")} == {
        "files": 2,
        "rows": 6,
        "empty_rows": 1,
        "documents": 5,
        "problems": [],
    }
    assert manifest["dropped"]["exact duplicate"] == {"documents": 2, "words": 4}
    assert manifest["kept"] == {"documents": 3, "words": 5}
    assert build_corpus(corpus) == folder
    write(tmp_path / "b.csv", [("other", "x")])
    assert build_corpus(corpus) != folder


def test_a_task_source_gives_the_training_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = {"name": "t", "train": write(tmp_path / "rows.csv", ROWS[:80])}
    Path("task.yaml").write_text(json.dumps({"run": "r", "task": task}))
    folder = build_corpus(Corpus(name="c", sources=[{"task": "task.yaml"}]))
    training_texts = {example.texts[0] for example in read_task(Task(**task))["train"]}
    assert {document["text"] for document in iter_documents(folder)} == training_texts


def test_a_corpus_without_text_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^corpus c: no text in .*e.csv \(1 rows read, all empty\)$"):
        build_corpus(Corpus(name="c", sources=[write(tmp_path / "e.csv", [(" ", "x")])]))
    assert not list(Path("out/corpus").glob("c-*"))


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".hidden", "", "a b", "x\ny", "<script>"])
def test_a_name_is_no_path(name):
    with pytest.raises(ValueError, match="pattern"):
        Task(name=name, train={"files": "rows.csv"})


def test_whole_numbers_are_sorted_as_numbers():
    task = Task(name="t", train={"files": "a.csv"})
    for labels in (map(str, range(12)), ["-1", "0", "1"]):
        expected = list(labels)
        examples = [Example(("x",), label) for label in reversed(expected)]
        assert list_label_names(task, {"train": examples}) == expected
    assert list_label_names(task, {"train": [Example(("x",), label) for label in ("10", "9", "a")]}) == ["10", "9", "a"]


def test_numbers_may_be_given_as_numbers(tmp_path):
    train = {**write(tmp_path / "a.csv", [(f"text {n}", n % 3) for n in range(60)]), "non_empty": ["text"]}
    task = Task(name="t", train=train, label_names={0: "low", 1: 10, 2: "high"})
    assert list_label_names(task, read_task(task)) == ["low", "10", "high"]
    ordered = Task(name="t", train=train, classes=[2, 0, 1], descriptions={0: "a low one", 1: ["one", "two"]})
    assert list_label_names(ordered, read_task(ordered)) == ["2", "0", "1"]
    assert ordered.descriptions == {"0": "a low one", "1": ["one", "two"]}
    with pytest.raises(DataError, match="no rows where {'label': '4'}"):
        read_task(Task(name="t", train={**train, "where": {"label": 4}}))


def test_labels_that_look_alike_are_named_once(tmp_path, capsys):
    alike = ["Pos", "pos", '"pos"', "1", "1.0", "neg", "neg\u200b", "caf\u00e9", "cafe\u0301", "nan", "other"]
    rows = [(f"text {number}", label) for number, label in enumerate(alike * 20)]
    for _ in range(2):
        splits_of(tmp_path, rows)
    (line,) = capsys.readouterr().err.splitlines()
    prefix, _, shown = line.partition(" missing value: ")
    assert prefix == f"{tmp_path / 'rows.csv'}: different labels that look alike, or like a"
    assert shown.split("; ") == [
        "'\"pos\"' and 'Pos' and 'pos'",
        "'1' and '1.0'",
        "'cafe\\u0301' and 'caf\\xe9'",
        "'nan'",
        "'neg' and 'neg\\u200b'",
    ]
    splits_of(tmp_path, [(text, "ab"[number % 2]) for number, (text, _) in enumerate(rows)])
    assert not capsys.readouterr().err


def test_typeset_labels_look_like_typed_ones():
    alike = [["a-b", "a\u2011b", "a\u2013b"], ["it's", "it\u2019s"], ["NA"], ["?"]]
    assert sorted(find_similar_labels([*sum(alike, []), "other"])) == sorted(alike)


def test_a_column_of_identifiers_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("data.tasks.task.MAX_LABELS", 100)
    rows = [(f"text {number}", f"id {number % 101}") for number in range(500)]
    for problem_type in ("single_label_classification", "multi_label_classification"):
        with pytest.raises(DataError, match="rows.csv: over 100 different labels in the first 101 rows of"):
            splits_of(tmp_path, rows, problem_type=problem_type)
    assert splits_of(tmp_path, [row for row in rows if row[1] != "id 100"])
