"""labels.csv survives kills, torn rows, other programs and a second labeler."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, environment
from tiny_labels import read_rows

from data.csv_cells import csv_lines
from data.tasks.answers import ANSWER_COLUMNS
from engine.errors import ConfigError
from label.store import AnswerFile, read_cells, split_records

TEXTS = ["plain", 'with "quotes", and a comma', "two\nli\rnes", "=1+1", "'quoted", "日本語 \u202e", "-5", " spaces "]
TEXTS += ["a lone\rreturn", "'@apostrophe"]


def add(store: AnswerFile, text: str, label: str = "a", answer: str = "label") -> None:
    store.add([(text, label, "train", answer, 1.25)])


def labels_of(store: AnswerFile) -> dict[str, str]:
    return {text: answer.label for text, answer in store.answers.items()}


def test_answers_are_read_as_they_were_given(tmp_path):
    path = tmp_path / "labels/mine.csv"
    store = AnswerFile(path, "text")
    for number, text in enumerate(TEXTS):
        add(store, text, f"=class {number}")
    expected = {text: f"=class {number}" for number, text in enumerate(TEXTS)}
    assert labels_of(store) == labels_of(AnswerFile(path, "text")) == expected
    rows = read_rows(path)
    assert list(rows[0]) == ["text", *ANSWER_COLUMNS] and rows[0]["seconds"] == "1.2" and rows[0]["time"].endswith("Z")
    assert not [value for row in rows for value in row.values() if value.startswith(("=", "+", "@", "\t", "\r"))]
    assert rows[3]["text"] == "'=1+1" and rows[6]["text"] == "-5"


def test_a_row_that_was_cut_short_anywhere_costs_itself_alone(tmp_path):
    path = tmp_path / "mine.csv"
    store = AnswerFile(path, "text")
    for text in TEXTS[:3]:
        add(store, text)
    whole = path.read_bytes()
    start = len(whole) - len(split_records(whole[:-1])[1]) - 1
    kept = {text: "a" for text in TEXTS[:2]}
    for end in range(start, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert labels_of(AnswerFile(path, "text")) == kept, end
        assert path.read_bytes() == whole[:start]
    path.write_bytes(whole[:-1])  # only its line end is missing
    assert labels_of(AnswerFile(path, "text")) == kept | {TEXTS[2]: "a"} and path.read_bytes() == whole
    assert TEXTS[2].encode()[:4] in (tmp_path / "mine.csv.cut").read_bytes(), "what was cut is not lost"


def test_a_text_longer_than_a_cell_of_the_csv_module_is_read_again(tmp_path):
    csv.field_size_limit(131_072)  # the default, which another test may have raised
    text = "x" * 200_000
    add(AnswerFile(tmp_path / "mine.csv", "text"), text)
    assert labels_of(AnswerFile(tmp_path / "mine.csv", "text")) == {text: "a"}


def test_undo_takes_back_the_last_answer_and_a_correction(tmp_path):
    path = tmp_path / "mine.csv"
    store = AnswerFile(path, "text")
    add(store, "one", "a")
    add(store, "two", "b")
    add(store, "one", "c")
    assert store.undo() == ["one"] and labels_of(store) == {"one": "a", "two": "b"}
    store = AnswerFile(path, "text")  # of an earlier session
    assert labels_of(store) == {"one": "a", "two": "b"}
    store.add([("three", "x", "train", "label", 1), ("four", "x", "train", "label", 1)])
    assert sorted(AnswerFile(path, "text").undo()) == ["four", "three"]
    store = AnswerFile(path, "text")
    assert labels_of(store) == {"one": "a", "two": "b"}
    while store.undo():
        pass
    assert labels_of(store) == labels_of(AnswerFile(path, "text")) == {}


def add_cluster(store: AnswerFile, texts: list[str], label: str) -> None:
    store.add([(text, label, "train", "label", 0.25) for text in texts])


def test_undo_takes_back_one_step_and_not_earlier_ones_of_the_same_text(tmp_path):
    store = AnswerFile(tmp_path / "mine.csv", "text")
    add(store, "o", "a")
    add_cluster(store, ["A", "B", "C"], "b")
    add(store, "A", "c")
    assert store.undo() == ["A"] and labels_of(store) == {"o": "a", "A": "b", "B": "b", "C": "b"}
    assert store.undo() == ["A", "B", "C"] and labels_of(store) == {"o": "a"}
    assert store.undo() == ["o"] and store.undo() == [] and not store.answers


@pytest.mark.parametrize("seed", range(3))
def test_a_file_that_is_read_again_has_the_answers_and_the_history_it_had(tmp_path, seed):
    path, draw = tmp_path / "mine.csv", random.Random(seed)
    path.write_text("text,label,note\nA,own,x\nB,own,y\nA,other,z\n")
    store = AnswerFile(path, "text")
    states, texts = [labels_of(store)], ["A", "B", *TEXTS[:6]]
    for _ in range(60):
        action = draw.choice(["label", "label", "cluster", "skip", "undo"])
        if action == "undo":
            store.undo()
            states = states[:-1] if len(states) > 1 else [labels_of(store)]
        elif action == "cluster":
            add_cluster(store, draw.sample(texts, 3), draw.choice("ab"))
        else:
            add(store, draw.choice(texts), draw.choice("ab") if action == "label" else "", action)
        states += [labels_of(store)] * (action != "undo")
        assert labels_of(store) == states[-1]
        again = AnswerFile(path, "text")
        assert (again.answers, again.history) == (store.answers, store.history)
        store = draw.choice([store, again])
    while store.undo():
        assert labels_of(store) == labels_of(AnswerFile(path, "text"))
    assert not AnswerFile(path, "text").answers


def test_a_kill_while_a_cluster_is_taken_back_loses_no_earlier_label(tmp_path):
    path = tmp_path / "mine.csv"
    store = AnswerFile(path, "text")
    add_cluster(store, TEXTS, "first")
    add_cluster(store, ["new", *TEXTS], "second")
    size = path.stat().st_size
    store.undo()
    whole = path.read_bytes()
    for end in range(size, len(whole), 11):
        path.write_bytes(whole[:end])
        found = labels_of(AnswerFile(path, "text"))
        assert set(TEXTS) <= set(found) and set(found.values()) <= {"first", "second"}, end


def test_answers_of_two_sessions_in_one_millisecond_are_two_steps(tmp_path, monkeypatch):
    times = iter(["a", "a", "b"])
    monkeypatch.setattr("label.store.now", lambda: next(times))
    path = tmp_path / "mine.csv"
    add(AnswerFile(path, "text"), "one")
    store = AnswerFile(path, "text")
    add(store, "two")
    assert [list(step) for step in store.history] == [["one"], ["two"]]


def test_a_table_of_labels_and_one_of_a_spreadsheet_are_continued(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label,note\r\none,a,"5"" wide"\r\ntwo,,x\r\n')
    store = AnswerFile(path, "text")
    add(store, "two", "b")
    assert labels_of(AnswerFile(path, "text")) == {"one": "a", "two": "b"}
    assert [row["note"] for row in read_rows(path)] == ['5" wide', "x", ""]
    path.write_text('text,label,role,time,seconds,answer\n5" wide,a,train,t,1,label\none,b,train,t2,1,label\n')
    before = path.read_bytes()
    assert labels_of(AnswerFile(path, "text")) == {'5" wide': "a", "one": "b"} and path.read_bytes() == before


def test_whole_records_are_those_of_the_csv_module():
    draw = random.Random(0)
    for _ in range(3_000):
        content = "".join(draw.choices('",\n\na', k=draw.randrange(14)))
        whole, rest = (part.decode() for part in split_records(content.encode()))
        assert whole + rest == content and whole[-1:] in ("", "\n")
        assert read_cells(whole) + read_cells(rest) == read_cells(content) and len(read_cells(rest)) <= 1, content
    assert split_records(b'\xef\xbb\xbf"a\n')[0] == b""


def test_a_quote_within_a_cell_costs_neither_answers_nor_time(tmp_path):
    path, rows = tmp_path / "mine.csv", 30_000
    header = csv_lines([["text", *ANSWER_COLUMNS]], raw=True)
    lines = "".join(f"text {number},a,train,t{number},1,label\n" for number in range(rows))
    path.write_text(f'{header}a 5" disk,a,train,t,1,label\n{lines}torn,a,tra')
    start = time.process_time()
    assert len(split_records(path.read_bytes())[1]) == len("torn,a,tra")
    assert time.process_time() - start < 1
    assert len(AnswerFile(path, "text").answers) == rows + 1
    assert (tmp_path / "mine.csv.cut").read_text() == "torn,a,tra\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"text;label\na;b\n", "no column 'text'"),
        (b"review,label\na,b\n", r"no column 'text' \(there are: label, review\); name another file: labels=FILE"),
        ("text,label\ncaf\u00e9,b\n".encode("latin-1"), "not UTF-8"),
        (b"text,label\ra,b\rc,d", "its lines end as on old Macs; save it as CSV in UTF-8"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        AnswerFile(tmp_path / "a.csv", "text")
    assert (tmp_path / "a.csv").read_bytes() == content


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    store = AnswerFile(tmp_path / "a.csv", "text")
    add(store, "one")
    before, write = store.path.read_bytes(), os.write

    def fail(descriptor, content):
        write(descriptor, content[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError):
        add(store, "two")
    assert store.path.read_bytes() == before and labels_of(store) == {"one": "a"}


WRITE = """
import sys
from pathlib import Path
from label.store import AnswerFile
store = AnswerFile(Path(sys.argv[1]), "text")
for number in range(100_000):
    store.add([(f"text\\n{number}", "a", "train", "label", 1.0)])
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_loses_at_most_the_last_answer(tmp_path):
    path, confirmed = tmp_path / "labels.csv", 0
    command = [sys.executable, "-c", WRITE, str(path)]
    for delay in (0.0, 0.013, 0.031):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)
        assert process.stdout.readline() == "0\n"
        with pytest.raises(
            ConfigError, match=r"labels.csv: in use by process \d+ .*\nWait, or end it, or name another"
        ):
            AnswerFile(path, "text")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        process.wait()
        confirmed = int(lines[-1]) if lines else 0
        found = len(AnswerFile(path, "text").answers)
        assert confirmed + 1 <= found <= confirmed + 2
        assert csv_lines([["text", *ANSWER_COLUMNS]], raw=True).encode() == path.read_bytes().splitlines(True)[0]
