"""Predict files: every row with the label that plain transformers gives, resumed after any kill, for all labels."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from helpers import error_lines, small_disk, start_module

from engine.models import LOAD_WEIGHTS_KWARGS
from predict import run as predict_run
from predict.__main__ import main, quote_texts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predict_run, "PART_ROWS", 64)


@pytest.fixture
def table(workspace, texts):
    """Write a CSV with an id, a text, some of them empty, and a cell that a spreadsheet would run."""
    rows = [
        {"id": f"{n:03}", "text": "" if n % 50 == 7 else text, "note": "=1+1"} for n, text in enumerate(texts[:200])
    ]
    with open("rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "note"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@torch.no_grad()
def plain_logits(folder, auto_class, text, **options):
    """Return the logits of plain transformers for one text alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = getattr(transformers, auto_class).from_pretrained(folder, **LOAD_WEIGHTS_KWARGS).eval()
    return model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=48)).logits[0], model.config


def test_a_csv_keeps_its_rows_and_gets_the_labels_of_plain_transformers(table, classifiers, capsys):
    main([f"model={classifiers['single']}", "file=rows.csv", "output=out/labels.csv", "max_length=48"])
    rows = read_csv("out/labels.csv")
    assert list(rows[0]) == ["id", "text", "note", "label", "probability"]
    assert [row["id"] for row in rows] == [row["id"] for row in table]
    assert [row["text"] for row in rows] == [row["text"] for row in table] and {row["note"] for row in rows} == {
        "'=1+1"
    }
    assert all((row["label"] == "") == (row["text"] == "") for row in rows)
    assert len({row["label"] for row in rows}) > 2  # not a constant
    classify = transformers.pipeline("text-classification", str(classifiers["single"]), trust_remote_code=False)
    filled, options = [row for row in rows if row["text"]], {"truncation": True, "max_length": 48}
    for row, plain in zip(filled, classify([row["text"] for row in filled], **options), strict=True):
        assert row["label"] == plain["label"] and abs(float(row["probability"]) - plain["score"]) < 1e-3
    output = capsys.readouterr().out
    assert "200 rows" in output and "4 of them without text" in output and not list((classifiers["single"]).glob(".*"))


def test_several_labels_numbers_and_spans(workspace, classifiers, texts):
    rows = [{"text": text, "n": number} for number, text in enumerate(texts[:20])]
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for kind in ("multi", "number", "words"):
        main([f"model={classifiers[kind]}", "file=rows.jsonl", f"output=out/{kind}.jsonl", "max_length=48"])
        found = [json.loads(line) for line in open(f"out/{kind}.jsonl")]
        assert [{key: row[key] for key in ("text", "n")} for row in found] == rows
        for row in found[:5]:
            auto_class = "AutoModelForTokenClassification" if kind == "words" else "AutoModelForSequenceClassification"
            logits, config = plain_logits(classifiers[kind], auto_class, row["text"])
            if kind == "multi":
                chosen = [config.id2label[i] for i in range(3) if logits[i].sigmoid() >= 0.5]
                assert row["label"] == chosen and len(row["probability"]) == len(chosen)
            elif kind == "number":
                assert row["label"] == pytest.approx(float(logits[0]), rel=1e-4) and "probability" not in row
            else:
                assert all(row["text"][span["start"] : span["end"]] == span["text"] for span in row["label"])
    assert any(row["label"] for row in found)


def test_spans_are_those_of_the_first_tokens_of_words(workspace, classifiers):
    text, folder = "Anna met Bob  in New York, and Tom laughed", classifiers["words"]
    (workspace / "one.jsonl").write_text(
        json.dumps({"text": text}) + "\n" + json.dumps({"text": text.split()}) + "\n", encoding="utf-8"
    )
    main([f"model={folder}", "file=one.jsonl", "output=out/one.jsonl"])
    spans, tags = (json.loads(line)["label"] for line in open("out/one.jsonl"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    encoding = tokenizer(text.split(), is_split_into_words=True)
    logits, config = plain_logits(folder, "AutoModelForTokenClassification", text)
    first = [encoding.word_ids().index(word) for word in range(len(text.split()))]
    assert tags == [config.id2label[int(logits[token].argmax())] for token in first]
    kinds = [None if tag == "O" else tag[2:] for tag in tags]
    covered = [kinds[index] for index in range(len(kinds))]
    for span in spans:  # every word inside a span has its kind, every other word none
        words = [
            i
            for i, match in enumerate(re.finditer(r"\S+", text))
            if match.start() >= span["start"] and match.end() <= span["end"]
        ]
        assert {covered[index] for index in words} == {span["label"]}
        for index in words:
            covered[index] = None
    assert set(covered) == {None}


def test_formats_globs_and_compressed_files_give_the_same_labels(table, classifiers):
    model = f"model={classifiers['single']}"
    main([model, "file=rows.csv", "output=out/a.csv", "max_length=32"])
    half = len(table) // 2
    for number, rows in enumerate((table[:half], table[half:])):
        with gzip.open(f"part{number}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), "rows.parquet")
    main([model, "file=part*.jsonl.gz", "max_length=32"])
    main([model, "file=rows.parquet", "max_length=32"])
    expected = [row["label"] or None for row in read_csv("out/a.csv")]
    (path,) = (p for p in Path("out/predictions").rglob("labels.jsonl"))
    assert [json.loads(line)["label"] for line in open(path)] == expected
    (path,) = Path("out/predictions").rglob("labels.parquet")
    assert pyarrow.parquet.read_table(path).column("label").to_pylist() == expected


def test_a_column_of_the_name_label_stays(workspace, classifiers):
    (workspace / "rows.csv").write_text("text,label,probability\na film,x,y\nanother,z,\n")
    main([f"model={classifiers['single']}", "file=rows.csv", "output=out/a.csv"])
    rows = read_csv("out/a.csv")
    assert [row["label"] for row in rows] == ["x", "z"]
    assert rows[0]["predicted_label"] in ("bad", "fair", "good") and float(rows[0]["predicted_probability"]) > 0.3


def test_killed_at_random_it_ends_with_the_same_bytes(table, workspace, classifiers, monkeypatch):
    script = (
        "import sys; from predict import run; run.PART_ROWS = 16\n"
        "from engine.cli import run_command; from predict.__main__ import main; run_command(main)"
    )
    args = [f"model={classifiers['single']}", "file=rows.csv", "max_length=32"]
    monkeypatch.setattr(predict_run, "PART_ROWS", 16)
    main([*args, "output=out/whole.csv"])
    random.seed(0)
    folder, kills = Path("out/.labels.csv.parts"), 0
    for target in (1, 3, 5, 8, 12):
        process = start_module(script, *args, "output=out/labels.csv", prefix=("-c",), cwd=workspace)
        while process.poll() is None and len(list(folder.glob("part-*.json"))) < target:
            time.sleep(0.002)
        time.sleep(random.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        kills += 1
        process.wait(60)
        assert not Path("out/labels.csv").exists() or target == 12
    main([*args, "output=out/labels.csv"])
    whole, resumed = (open(f"out/{name}.csv", "rb").read() for name in ("whole", "labels"))
    assert whole == resumed and not folder.exists()
    summaries = [json.load(open(f"out/{name}.summary.json")) for name in ("whole", "labels")]
    assert summaries[0]["shares"] == summaries[1]["shares"] and summaries[0]["doubtful"] == summaries[1]["doubtful"]


def test_finished_is_not_predicted_again_and_another_command_does_not_replace_it(
    table, classifiers, capsys, monkeypatch
):
    args = [f"model={classifiers['single']}", "file=rows.csv", "output=out/a.csv"]
    main([*args, "max_length=32"])
    before = open("out/a.csv", "rb").read()
    monkeypatch.setattr(predict_run.PredictRun, "predict_parts", None)
    main([*args, "max_length=32"])
    assert "is finished" in capsys.readouterr().out
    (line,) = error_lines(main, [*args, "max_length=16"], capsys, monkeypatch)
    assert line == "output: out/a.csv is there, by another command; choose another, or overwrite=true"
    assert open("out/a.csv", "rb").read() == before


def test_files_of_two_formats_next_to_each_other_are_both_finished(table, classifiers, capsys, monkeypatch):
    args, folder = [f"model={classifiers['single']}", "file=rows.csv", "max_length=32"], Path("out/predictions/rows")
    main(args)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == ["labels.csv", "labels.html", "labels.summary.json"]
    main([*args, "format=parquet"])
    assert f"report  {folder}/labels.parquet.html" in capsys.readouterr().out
    assert {name: (folder / name).read_bytes() for name in first} == first
    monkeypatch.setattr(predict_run.PredictRun, "predict_parts", None)
    for again, name in ((args, "labels"), ([*args, "format=parquet"], "labels.parquet")):
        main(again)
        output = capsys.readouterr().out
        assert "is finished" in output and f"report  {folder}/{name}.html" in output


@pytest.mark.parametrize("output", ["labels", "out.v2/labels", "out.v2/labels.txt"])
def test_the_report_is_named_as_it_is_written(table, classifiers, capsys, output):
    main([f"model={classifiers['single']}", "file=rows.csv", "max_length=16", f"output={output}", "format=csv"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  report  ")]
    assert "Predictions" in Path(line.removeprefix("  report  ")).read_text()


@pytest.mark.parametrize(
    "args, message",
    [
        (["file=rows.csv", "text=txet"], "rows.csv row 1: no column 'txet' (nearest: text); set text=COLUMN"),
        (["file=nothing.csv"], "nothing.csv: no such file"),
        (["file=empty.csv"], "empty.csv: no rows"),
        (["file=header.csv"], "header.csv: no rows"),
        (["file=broken.csv"], "broken.csv row 3: cannot be read (2 values, but 1 columns"),
        (["file=rows.csv", "precision=0.9"], "precision: {single} has no confidence.safetensors"),
        (["file=rows.csv", "output=labels.doc"], "output: labels.doc has none of the extensions .csv"),
        (["file=rows.csv", "output=labels.html", "format=csv"], "output: labels.html would be the report"),
        (["file=other.csv"], "text: which column has the text? There are a, b; set text=COLUMN"),
        ([], "give rows, file=FILE or source.hub=OWNER/NAME, or texts or images as arguments"),
        (["file=rows.csv", "precison=0.9"], "precison: no such key (nearest: precision)"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    table, workspace, classifiers, args, message, capsys, monkeypatch
):
    (workspace / "empty.csv").touch()
    (workspace / "header.csv").write_text("text\n")
    (workspace / "broken.csv").write_text("text\na\nb\nc,d\n")
    (workspace / "other.csv").write_text("a,b\n1,2\n3,4\n")
    lines = error_lines(main, [f"model={classifiers['single']}", *args], capsys, monkeypatch)
    assert len(lines) == 1 and lines[0].startswith(message.format(**classifiers)), lines
    assert not list(workspace.glob("out/predictions")) and not list(workspace.glob("*.parts"))


def test_models_of_another_kind_are_one_line(table, tiny, workspace, capsys, monkeypatch):
    (line,) = error_lines(main, [f"model={tiny}", "file=rows.csv"], capsys, monkeypatch)
    assert line == f"{tiny}: predicts no labels (its architecture is BertModel); fine-tune it first"
    (line,) = error_lines(main, ["model=nothing", "file=rows.csv"], capsys, monkeypatch)
    assert line.startswith("nothing: no folder or run of this name")


def test_on_a_full_disk_it_ends_in_one_line_and_resumes(table, workspace, classifiers, capsys, monkeypatch):
    args = [f"model={classifiers['single']}", "file=rows.csv", "max_length=32"]
    main([*args, "output=out/whole.csv"])
    with small_disk(workspace, "32k") as disk:
        output = f"output={disk}/labels.csv"
        (line,) = error_lines(main, [*args, output], capsys, monkeypatch)
        assert "the disk is full" in line and not (disk / "labels.csv").exists()
        parts = {path.name: path.read_bytes() for path in disk.glob(".*.parts/part-*.csv")}
        assert parts and not list(disk.glob("**/*unfinished*"))
        assert b"".join(parts.values()) in (workspace / "out/whole.csv").read_bytes()


def test_single_texts_give_a_label_and_a_probability(classifiers, workspace, capsys):
    main([f"model={classifiers['single']}", "a film to remember", "x = y, so it is"])
    lines = capsys.readouterr().out.splitlines()
    for line, text in zip(lines, ("a film to remember", "x = y, so it is"), strict=True):
        logits, config = plain_logits(classifiers["single"], "AutoModelForSequenceClassification", text)
        best = int(logits.argmax())
        assert line == f"{config.id2label[best]}  {logits.softmax(-1)[best]:.3f}  {text}"


def test_arguments_are_keys_files_or_texts():
    args = ["model=a", "file=it's.csv", "--why", "one: text", "--precision", "0.9"]
    expected = ["model=a", "source.files='it''s.csv'", "--why", "--precision", "0.9", "texts=['one: text']"]
    assert quote_texts(args) == expected


def test_every_text_is_escaped_in_the_page(workspace, classifiers):
    (workspace / "rows.csv").write_text('text\n<script>alert(1)</script>\n"<b onclick=""x"">"\n')
    main([f"model={classifiers['single']}", "file=rows.csv", "output=out/a.csv"])
    page = (workspace / "out/a.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b onclick" not in page


def test_the_most_doubtful_rows_are_those_of_the_lowest_probability(table, classifiers):
    main([f"model={classifiers['single']}", "file=rows.csv", "output=out/a.csv", "num_doubtful=10", "max_length=32"])
    rows = [row for row in read_csv("out/a.csv") if row["label"]]
    listed = json.load(open("out/a.summary.json"))["doubtful"]
    lowest = np.sort([float(row["probability"]) for row in rows])[:10]
    assert [entry["probability"] for entry in listed] == lowest.tolist()
