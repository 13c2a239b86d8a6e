"""Rows to predict: their columns."""

from __future__ import annotations

import json

import pytest

from data.modalities import load_modality
from data.sources.source import Source
from data.tasks.problem_types import load_problem_type
from engine.errors import ConfigError
from predict.rows import Table, find_columns, iter_texts


@pytest.mark.parametrize(
    ("header", "trained", "expected"),
    [
        ("text,id", ["premise", "hypothesis"], None),
        ("premise,hypothesis", "review", None),
        ("premise,hypothesis", ["a", "b"], ["premise", "hypothesis"]),
        ("premise,hypothesis", None, ["premise", "hypothesis"]),
        ("text,id", "review", ["text"]),
        ("line", "review", ["line"]),
        ("line", ["premise", "hypothesis"], None),
    ],
)
def test_columns_found_by_name_are_as_many_as_the_model_was_trained_on(tmp_path, header, trained, expected):
    (tmp_path / "rows.csv").write_text(f"{header}\n{header.replace('i', 'a')}\n")
    source, text = Source(files=str(tmp_path / "rows.csv")), load_modality("text")
    if expected:
        assert find_columns(source, text, None, trained) == expected
        return
    with pytest.raises(ConfigError, match=r"^text: the model was trained on .*; set text=(COLUMN|\[FIRST,SECOND\])$"):
        find_columns(source, text, None, trained)


@pytest.mark.parametrize(
    ("value", "words", "is_list"),
    [
        ("['Anna', 'in', 'Rome']", "Anna in Rome", True),
        (["Anna", "in", "Rome"], "Anna in Rome", True),
        ("Anna, in [Rome]", "Anna, in [Rome]", False),
        ("[laughs, and goes on]", "[laughs, and goes on]", False),
    ],
)
def test_words_are_read_as_in_training(tmp_path, value, words, is_list):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": value}) + "\n")
    source, problem_type = Source(files=str(tmp_path / "rows.jsonl")), load_problem_type("token_classification")
    (item,) = Table(source, ["tokens"], load_modality("text"), problem_type).iter_items()
    assert item.example.texts == (words,) and len(item.example.label) == len(words.split())
    assert isinstance(item.text, list) == is_list


def test_single_texts_are_no_input_of_a_model_of_pairs():
    text, problem_type = load_modality("text"), load_problem_type("single_label_classification")
    assert iter_texts(["a film"], text, problem_type, "text")[0].example.texts == ("a film",)
    with pytest.raises(ConfigError, match="^texts: the model reads premise and hypothesis together; give rows"):
        iter_texts(["a film"], text, problem_type, ["premise", "hypothesis"])
