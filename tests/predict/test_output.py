"""Cells of a CSV, and parts that are joined to a file."""

import csv
import io
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest

from data.csv_cells import make_harmless
from data.tasks.problem_types import load_problem_type
from engine.errors import DataError
from predict.output import Writer
from predict.summary import describe_shares, sample_outputs

VALUES = ["plain", "=1+1", "+SUM(A1)", "-cmd", "@x", "\tx", "-3.5", "+1e5", "", "a\nb", 'say "x"', "\ud800"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(start):
    assert make_harmless(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"
    assert make_harmless(f"x{start}1") == f"x{start}1"


@pytest.mark.parametrize("number", ["-3", "-3.5", "+1e5", "-.5"])
def test_numbers_stay(number):
    assert make_harmless(number) == number


@pytest.mark.parametrize("raw", [False, True])
def test_csv_parts_are_one_table_with_all_cells(tmp_path, raw):
    writer = Writer("csv", ["=name", "label"], raw)
    rows = [{"=name": value, "label": ["a", "b"]} for value in VALUES]
    writer.write_part(tmp_path / "0", rows[:5])
    writer.write_part(tmp_path / "1", rows[5:])
    writer.join([tmp_path / "0", tmp_path / "1"], tmp_path / "all.csv")
    read = list(csv.reader(io.StringIO((tmp_path / "all.csv").read_bytes().decode(), newline="")))
    clean = [value.encode("utf-8", "replace").decode() for value in VALUES]
    expected = clean if raw else [make_harmless(value) for value in clean]
    assert read[0] == ["=name" if raw else "'=name", "label"]
    assert [row[0] for row in read[1:]] == expected
    assert {row[1] for row in read[1:]} == {'["a", "b"]'}


def test_json_lines_and_parquet_keep_the_types(tmp_path):
    rows = [{"a": 1, "b": None, "c": [1, 2]}, {"a": 2, "b": "x", "c": []}, {"a": 3, "b": "y", "c": None}]
    for name in ("jsonl", "parquet"):
        writer = Writer(name, ["a", "b", "c"], False)
        for number, row in enumerate(rows):  # the column b is empty in the first part
            writer.write_part(tmp_path / f"{number}.{name}", [row])
        writer.join([tmp_path / f"{number}.{name}" for number in range(3)], tmp_path / f"all.{name}")
    assert [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()] == rows
    assert pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist() == rows


def test_numbers_that_are_not_finite_are_null_in_json_lines(tmp_path):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    nan, infinite = float("nan"), float("inf")
    row = {"a": nan, "b": [1.5, -infinite, {"c": infinite}], "d": ((nan,),), "e": 2}
    Writer("jsonl", list(row), False).write_part(tmp_path / "0", [row])
    line = json.loads((tmp_path / "0").read_text(), parse_constant=refuse)
    assert line == {"a": None, "b": [1.5, None, {"c": None}], "d": [[None]], "e": 2}


def test_half_of_a_surrogate_pair_is_a_question_mark_in_parquet(tmp_path):
    row = {"text": "a\ud800", "x\udfff": 1, "label": [{"text": "\ud83d!", "start": 0}], "none": None}
    writer = Writer("parquet", list(row), False)
    writer.write_part(tmp_path / "0", [row])
    writer.join([tmp_path / "0"], tmp_path / "all.parquet")
    expected = {"text": "a?", "x?": 1, "label": [{"text": "?!", "start": 0}], "none": None}
    assert pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist() == [expected]


def test_a_column_of_words_and_numbers_fits_in_no_parquet_file(tmp_path):
    with pytest.raises(DataError, match="column 'a' fits in no Parquet column .*; set format=jsonl"):
        Writer("parquet", ["a"], False).write_part(tmp_path / "0", [{"a": 1}, {"a": "x"}])
    assert not list(tmp_path.iterdir())


def test_every_part_of_a_file_has_its_share_of_the_sample():
    """Of 77 classes, 212 outputs of a full part are kept, and all of the last part, which is of another class."""
    full, last = np.tile(np.eye(77)[0], (212, 1)), np.tile(np.eye(77)[1], (200, 1))
    sample = sample_outputs([(full, 2_048), (np.zeros(0), 0), (full, 2_048), (last, 200)], 10**7)
    assert np.allclose(sample.mean(0)[:2], [4_096 / 4_296, 200 / 4_296], atol=0.002) and len(sample) == 445
    assert len(sample_outputs([(full, 2_048), (last, 200)], 100)) == 100
    assert len(sample_outputs([(last, 200)], 10**7)) == 200


@pytest.mark.parametrize(
    ("problem_type", "names", "shares"),
    [
        ("token_classification", ["O", "B-person", "I-person", "B-place", "I-place"], [0.75, 0.25]),
        ("multi_label_classification", ["person", "place"], [0.3, 0.1]),
    ],
)
def test_the_shares_of_entities_are_of_all_entities(problem_type, names, shares):
    kind = load_problem_type(problem_type)
    classifier = SimpleNamespace(problem_type=kind, names=names, confidence=None, detector=None)
    found = describe_shares(classifier, Counter(person=30, place=10), 100, [])
    assert [(share["label"], share["share"]) for share in found] == list(zip(["person", "place"], shares, strict=True))
