"""What a text and a label may be."""

import math

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from data.sources.source import Source, iter_rows
from data.sources.values import find_class_names, get_list, get_scalar, get_text, name_classes
from data.tasks.problem_types import load_problem_type
from data.tasks.task import Task
from engine.errors import DataError

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(
    "value, text",
    [
        ("a", "a"),
        (None, ""),
        (math.nan, ""),
        (b"caf\xc3\xa9", "café"),
        (["One.", "Two."], "One. Two."),
        ([], ""),
        (["a", None], "a"),
        (404, "404"),
        (2.5, "2.5"),
    ],
)
def test_a_text_is_a_string_bytes_a_number_or_a_list_of_strings(value, text):
    assert get_text({"text": value}, "text", "here") == text


@pytest.mark.parametrize("value", [True, {"en": "a"}, [1, 2], [["a"]], b"\xff"])
def test_any_other_text_is_refused_with_its_column(value):
    with pytest.raises(DataError, match="^f.jsonl row 7: column 'text' holds "):
        get_text({"text": value}, "text", "f.jsonl row 7")


def parse(problem_type: str, value: object):
    """Return the label that a task reads from a value."""
    task = Task(name="t", train={"files": "a.csv"}, problem_type=problem_type)
    return load_problem_type(problem_type).parse_label({"text": "a", "label": value}, task, "f.csv row 7")


@pytest.mark.parametrize(
    "value, label",
    [("pos", "pos"), (["pos"], "pos"), ("['pos']", "pos"), (1, "1"), (b"pos", "pos"), ("[spam]", "[spam]")],
)
def test_a_class_may_be_a_list_of_one(value, label):
    assert parse(SINGLE, value) == label


@pytest.mark.parametrize("value", [None, math.nan, "", " ", [], [""], "[]"])
def test_a_missing_class_is_refused(value):
    with pytest.raises(DataError, match=r"^f.csv row 7: no label in column 'label'; non_empty: \[label\] leaves"):
        parse(SINGLE, value)


@pytest.mark.parametrize(
    "value, labels",
    [
        ("a,b", ("a", "b")),
        (["a", "b", "a"], ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ('["a","b"]', ("a", "b")),
        ("[]", ()),
        ([], ()),
        ("", ()),
        (None, ()),
        (math.nan, ()),
        ([3, 10], ("3", "10")),
        ([1], ("1",)),
        ("a [b]", ("a [b]",)),
        ("('a', 'b')", ("a", "b")),
        ("('a',)", ("a",)),
        ("(a)", ("(a)",)),
        ({"choices": ["a", "b"]}, ("a", "b")),
        ('{"choices": ["a","b"]}', ("a", "b")),
    ],
)
def test_lists_of_labels_may_be_written_as_text(value, labels):
    assert parse(MULTI, value) == labels


@pytest.mark.parametrize(
    "value, message",
    [
        ('{"choice": ["a"]}', "holds an object as text: "),
        ({"choice": ["a"]}, "holds a value of type dict"),
        ("['a' 'b']", "holds a list as text: "),
        ("[a, b]", "holds a list as text: "),
        ("[" + "'a', " * 5_000 + "]", "holds a list as text: "),
        (["a", None], "holds a list with a missing value"),
        ([["a"]], "holds a value of type list"),
        ([1, 0, 1], r"holds zeros and ones, one for each label \(multi-hot\); set task.label_names to the names"),
        ([0.0, 0.0], "holds zeros and ones"),
        ("[1, 0, 0]", "holds zeros and ones"),
        ("1,0,1", "holds zeros and ones"),
    ],
)
@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_other_forms_of_labels_are_refused(value, message, problem_type):
    if problem_type == SINGLE and message.startswith("holds zeros"):
        return
    with pytest.raises(DataError, match=f"^f.csv row 7: column 'label' {message}"):
        parse(problem_type, value)


def test_numbers_and_tags_are_labels_too():
    assert get_scalar({"n": 3.5}, "n", "x") == "3.5" and get_scalar({"n": True}, "n", "x") == "True"
    assert (
        get_list({"tags": "['O', 'B-x']"}, "tags", "x") == ["O", "B-x"] and get_list({"tags": "O"}, "tags", "x") is None
    )
    with pytest.raises(DataError, match="not a finite number"):
        parse("regression", math.nan)


FEATURES = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=["neg", "neutral", "pos"]),
        "labels": List(ClassLabel(names=["x", "y"])),
        "n": Value("int64"),
    }
)
ROWS = [{"text": "a", "label": 2, "labels": [0, 1], "n": 1}, {"text": "b", "label": -1, "labels": [], "n": 0}]
NAMED = [{**ROWS[0], "label": "pos", "labels": ["x", "y"]}, {**ROWS[1], "label": None}]


def test_class_names_in_files_of_datasets_are_kept(tmp_path):
    rows = Dataset.from_list(ROWS, features=FEATURES)
    rows.to_parquet(tmp_path / "a.parquet")
    rows.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", next((tmp_path / "saved").glob("*.arrow"))):
        assert list(iter_rows(Source(files=str(path)))) == NAMED
    assert list(name_classes(iter(ROWS), find_class_names(FEATURES.to_dict()))) == NAMED


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": null}', b'{"info": {"features": [1]}}'])
def test_categories_are_read_as_their_values_and_odd_metadata_is_ignored(tmp_path, metadata):
    column = pyarrow.array(["pos", "neg", "pos"]).dictionary_encode()
    table = pyarrow.table({"label": column}).replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [row["label"] for row in iter_rows(Source(files=str(tmp_path / "a.parquet")))] == ["pos", "neg", "pos"]
