"""Columns of tables: found by name, and errors that name the keys that read a table."""

from __future__ import annotations

import csv
import io

import pytest

from data.tasks.columns import guess_columns
from data.tasks.task import Example, Task, read_examples
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from finetune.config import Finetune

ROWS = [("ham", "Go until jurong point"), ("spam", "Free entry in 2 a wkly comp"), ("ham", "Ok lar, joking wif u oni")]


def error_of(path, **keys) -> list[str]:
    """Return the lines of the error of reading a table."""
    task = Task(name="t", train={"files": str(path)}, **keys)
    with pytest.raises(DataError) as caught:
        read_examples(task, task.train)
    return str(caught.value).split("\n")


def spam_table() -> bytes:
    """A table as the most used one of SMS spam: Windows-1252, columns v1 and v2, and three without a name."""
    file = io.StringIO()
    texts = [(label, text + " \u00a31 \u2019til", "", "", "") for label, text in ROWS * 20]
    csv.writer(file).writerows([("v1", "v2", "", "", ""), *texts])
    return file.getvalue().encode("windows-1252")


def test_the_table_of_sms_spam_is_read_with_the_keys_that_its_error_names(tmp_path):
    path = tmp_path / "spam.csv"
    path.write_bytes(spam_table())
    lines = error_of(path)
    options = [option for line in lines for option in line.rpartition("; set ")[2].split(" ")]
    assert options == ["task.train.encoding=windows-1252"] and len(lines) == 1
    path.write_bytes(path.read_bytes().replace(b"\xa3", b"", 3).replace(b"\x92", b"", 3))
    lines = error_of(path)
    options = [option for line in lines for option in line.rpartition("; set ")[2].split(" ")]
    assert options == ["task.text=v2", "task.label=v1", "task.train.encoding=windows-1252"] and len(lines) == 2
    args = ["task.name=t", f"task.train.files={path}", "run=r", *options]
    task = load_config(Finetune, args).task
    assert read_examples(task, task.train)[-1] == Example((ROWS[2][1] + " \u00a31 \u2019til",), "ham")


@pytest.mark.parametrize(
    "content, options",
    [
        (
            "17,ham,Go until jurong point\n18,spam,Free entry to win\n19,ham,Ok lar joking\n",
            "task.train.columns=[column1,label,text] (a file without a header)",
        ),
        ("text;label\na b;ham\nc d, e;spam\n", "\"task.train.delimiter=';'\""),
        ("text\tlabel\na b\tham\nc d\tspam\n", "'task.train.delimiter=\"\\t\"'"),
        ("Full Text,Class\na b,ham\nc d,spam\n", "\"task.text='Full Text'\" task.label=Class"),
        ('text,label\na b,ham\n"c d,spam\n', "task.train.quotes=false"),
    ],
)
def test_an_error_ends_with_the_keys_that_read_the_table(tmp_path, content, options):
    (tmp_path / "a.csv").write_text(content)
    (line,) = error_of(tmp_path / "a.csv")
    assert line.endswith(f"set {options}") and f"{tmp_path / 'a.csv'} row " in line, line


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"text": "a", "label": "b"}, ("text", "label")),
        ({"Review": "a", "Sentiment": "b"}, ("Review", "Sentiment")),
        ({"id": "1", "clean_text": "a", "target_name": "b"}, ("clean_text", "target_name")),
        ({"premise": "a", "hypothesis": "b", "label": "0"}, (["premise", "hypothesis"], "label")),
        ({"title": "a", "text": "b", "category": "c"}, ("text", "category")),
        ({"data": {"text": "a"}, "meta": {"label": "b"}}, ("data.text", "meta.label")),
        ({"tokens": ["a"], "text": "a", "tags": ["O"]}, ("tokens", "tags")),
        ({"Sentence #": "1", "Word": "a", "Tag": "B-x"}, ("Word", "Tag")),
        ({"context": "a", "v1": "b"}, (None, None)),
    ],
)
def test_columns_are_found_by_name(row, expected):
    assert guess_columns([row], named_only=True) == expected


def test_columns_are_guessed_by_their_content():
    rows = [{"n": str(number), "a": "xy"[number % 2], "b": f"some words {number}"} for number in range(20)]
    assert guess_columns(rows) == ("b", "a")


@pytest.mark.parametrize("mark", ["|", "#", "\\t", ";", ":"])
def test_a_delimiter_is_given_as_it_is(tmp_path, mark):
    path = tmp_path / "a.csv"
    character = "\t" if mark == "\\t" else mark
    path.write_text("\n".join(character.join(row) for row in [("text", "label"), *ROWS]))
    args = ["task.name=t", f"task.train.files={path}", "run=r", f"task.train.delimiter={mark}"]
    task = load_config(Finetune, args).task
    assert [(example.label, *example.texts) for example in read_examples(task, task.train)] == [
        (text, label) for label, text in ROWS
    ]
    with pytest.raises(ConfigError, match="task.train.delimiter: '::' is more than one character"):
        load_config(Finetune, [*args, "task.train.delimiter='::'"])
