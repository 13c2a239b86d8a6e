"""Tables as annotation tools and programs export them."""

from __future__ import annotations

import json

import pytest

from data.sources.source import Source
from data.tasks.exports import read_export
from data.tasks.task import Example, Task, read_examples, read_source
from engine.errors import DataError

TEXT = "Anna in Rome."
TAGGED = [Example(("Anna in Rome .",), ("B-person", "O", "B-place", "O"))]


def label_studio(*results: list[dict], **keys) -> dict:
    return {"data": {"text": TEXT}, "annotations": [{"result": result, **keys} for result in results]}


def choice(*labels: str, name: str = "label") -> dict:
    return {"from_name": name, "value": {"choices": list(labels)}, "type": "choices"}


def span(start: int, end: int, label: str) -> dict:
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": [label]}
    return {"from_name": "ner", "value": value, "type": "labels"}


@pytest.mark.parametrize(
    "row, label",
    [
        (label_studio([choice("good")]), ["good"]),
        (label_studio([choice("good")], [choice("bad")], [choice("bad")]), ["bad"]),
        (label_studio([choice("x", name="topic"), choice("good")]), ["good"]),
        (label_studio([{"from_name": "stars", "value": {"rating": 4}, "type": "rating"}]), 4),
        (label_studio(), None),
        (label_studio([choice("good")], was_cancelled=True), None),
        ({"fields": {"text": TEXT}, "responses": {"q": [{"value": "good"}]}}, "good"),
        ({"fields": {"body": TEXT}, "responses": {"q": [{"value": ["a", "b"], "status": "submitted"}]}}, ["a", "b"]),
        ({"fields": {"text": TEXT}, "responses": {"q": [{"value": "good", "status": "draft"}]}}, None),
        ({"fields": {"text": TEXT}, "responses": {}}, None),
        ({"id": 1, "text": TEXT, "q.responses": ["good", "bad", "good"], "q.responses.users": [1, 2, 3]}, "good"),
        ({"text": TEXT, "annotation": "good", "prediction": None, "status": "Validated"}, "good"),
        ({"inputs": {"text": TEXT}, "annotation": "good", "prediction": None}, "good"),
        ({"text": TEXT, "annotation": None, "prediction": [["bad", 0.9]], "annotation_agent": None}, None),
        ({"text": TEXT, "label": "good", "answer": "accept"}, "good"),
        ({"text": TEXT, "label": "good", "answer": "reject"}, "not good"),
        ({"text": TEXT, "label": "good", "answer": "ignore"}, None),
        ({"text": TEXT, "accept": ["good"], "options": [], "answer": "accept"}, ["good"]),
        ({"text": TEXT, "accept": ["good"], "options": [], "answer": "reject"}, None),
        ({"id": 3, "data": TEXT, "label": ["good"]}, ["good"]),
    ],
)
def test_a_class_is_read_from_every_tool(row, label):
    found = read_export(row, allow_empty=False)
    assert (found and (found["text"], found["label"])) == (label and (TEXT, label))


def test_any_other_row_stays_as_it_is():
    for row in (
        {"text": "a", "label": "b"},
        {"data": {"text": "a"}, "meta": {"label": "b"}},
        {"text": "a", "spans": []},
        {"text": "a", "annotation": None, "prediction": "bad", "gold": "good"},
        {"text": "a", "annotation": None, "prediction": "bad", "status": "open", "label": "good"},
    ):
        assert read_export(row, False) is row


SPANS = {
    "doccano": {"text": TEXT, "label": [[8, 12, "place"], [0, 4, "person"]]},
    "doccano relations": {
        "text": TEXT,
        "entities": [{"id": 1, "label": "person", "start_offset": 0, "end_offset": 4}]
        + [{"id": 2, "label": "place", "start_offset": 8, "end_offset": 12}],
        "relations": [],
    },
    "label studio": label_studio([span(0, 4, "person"), span(8, 12, "place")]),
    "argilla": {
        "fields": {"text": TEXT},
        "responses": {
            "q": [{"value": [{"start": 0, "end": 4, "label": "person"}, {"start": 8, "end": 12, "label": "place"}]}]
        },
    },
    "argilla 1": {
        "text": TEXT,
        "annotation": [["person", 0, 4], ["place", 8, 12]],
        "prediction": None,
        "annotation_agent": "me",
    },
    "prodigy": {
        "text": TEXT,
        "spans": [{"start": 0, "end": 4, "label": "person"}, {"start": 8, "end": 12, "label": "place"}],
        "answer": "accept",
    },
}


def tagged(path, **keys) -> list[Example]:
    keys = {"text": "text", "label": "label", **keys}
    task = Task(name="t", problem_type="token_classification", train={"files": str(path)}, **keys)
    return read_examples(task, task.train)


@pytest.mark.parametrize("tool", SPANS)
def test_spans_are_read_from_every_tool(tool, tmp_path):
    (tmp_path / "a.jsonl").write_text((json.dumps(SPANS[tool]) + "\n") * 2)
    assert tagged(tmp_path / "a.jsonl") == TAGGED * 2


def test_spans_may_be_counted_in_utf_16_units_as_in_a_browser(tmp_path):
    """The text after two emoji starts four units, but two characters, later."""
    text = "\U0001f600\U0001f600 " + TEXT
    spans = [{"start": 5, "end": 9, "labels": ["person"], "text": "Anna"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "label": spans}) + "\n")
    assert tagged(tmp_path / "a.jsonl")[0] == Example((text,), ("O", "B-person", "O", "O"))


def test_spans_of_several_words_and_lists_as_text(tmp_path):
    row = {"text": "in  New\nYork ", "label": json.dumps([[4, 12, "place"]])}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert tagged(tmp_path / "a.jsonl") == [Example(("in New York",), ("O", "B-place", "I-place"))]


def test_rows_that_are_not_annotated_are_counted_and_unlabeled_text(tmp_path, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("headstart"), "propagate", True)
    rows = [label_studio([choice("good")]), label_studio(), label_studio([choice("bad")]), label_studio()]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    task = Task(name="t", train={"files": str(path)})
    assert [example.label for example in read_examples(task, task.train)] == ["good", "bad"]
    assert f"{path}: 2 rows without a label read as unlabeled text" in caplog.text
    assert len(read_source(task, task.train).unlabeled) == 2
    spans = Task(name="t", train={"files": str(path)}, problem_type="token_classification")
    path.write_text(json.dumps([label_studio([span(0, 4, "person")]), {**label_studio(), "annotations": []}]))
    read_examples(spans, spans.train)
    assert f"{path}: 1 row not annotated or rejected, left out" in caplog.text


@pytest.mark.parametrize(
    "label, column, content",
    [
        ("intent", "entities", '{"text": "hi 0", "intent": "x", "entities": []}'),
        ("state", "labels", '{"text": "hi 0", "state": "x", "labels": []}'),
        ("category", "labels", "text,labels,category\nhi 0,,x"),
    ],
)
def test_a_column_that_is_named_is_read_next_to_an_empty_one_of_a_tool(label, column, content, tmp_path):
    path = tmp_path / f"a.{'csv' if content.startswith('text') else 'jsonl'}"
    path.write_text(f"{content}\n")
    task = Task(name="t", train={"files": str(path)}, label=label)
    assert read_examples(task, task.train) == [Example(("hi 0",), "x")]
    path.write_text(f"{content.replace(label, 'other')}\n")
    with pytest.raises(DataError, match="none of 1 row has a label in column 'label'"):
        read_examples(Task(name="t", train={"files": str(path)}), Task(name="t", train={"files": str(path)}).train)


def test_a_number_among_texts_with_spans_is_a_word(tmp_path):
    rows = [{"text": TEXT, "label": [[0, 4, "person"], [8, 12, "place"]]}, {"text": 404, "label": [[0, 3, "code"]]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tagged(tmp_path / "a.jsonl") == [*TAGGED, Example(("404",), ("B-code",))]


def test_words_that_are_rows_need_the_column_of_their_sentence(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Sentence #,Word,Tag\n1,Anna,B-person\n1,in,O\n2,Rome,B-place\n")
    with pytest.raises(
        DataError, match=r"""a.csv row 1: one word, 'Anna'; .*; set "task.train.group_by='Sentence #'"$"""
    ):
        tagged(path, text="Word", label="Tag")
    source = Source(files=str(path), group_by="Sentence #")
    task = Task(name="t", problem_type="token_classification", train=source, text="Word", label="Tag")
    assert read_examples(task, source) == [Example(("Anna in",), ("B-person", "O")), Example(("Rome",), ("B-place",))]
