"""Mistakes of a user: one or two lines that name the key and the nearest valid one, exit code 2, no files left."""

from __future__ import annotations

import json

import pytest
from helpers import TINY_ARGS, error_lines, pretrain_args, run_module

from finetune.__main__ import main as finetune_main
from pretrain.__main__ import main as pretrain_main
from publish.__main__ import main as publish_main


@pytest.fixture
def pretrain(workspace, capsys, monkeypatch):
    base = ["configs/pretrain/scratch.yaml", *TINY_ARGS, "run=x", "corpus.name=c", "train.steps=2"]

    def attempt(*args):
        lines = error_lines(pretrain_main, [*base, *args], capsys, monkeypatch)
        assert not (workspace / "out/runs").exists() and not list((workspace / "out").glob("*/.*"))
        return lines

    return attempt


@pytest.fixture
def finetune(workspace, capsys, monkeypatch):
    base = ["configs/finetune/your-task.yaml", "method=none", "task.train.files=rows.csv", "run=x", "encoder=minilm"]

    def attempt(rows, *args):
        (workspace / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
        lines = error_lines(finetune_main, [*base, "train.precision=float32", *args], capsys, monkeypatch)
        assert not (workspace / "out/runs").exists()
        return lines

    return attempt


GOOD = "".join(f"sentence number {number},{'yes' if number % 2 else 'no'}\n" for number in range(40))


@pytest.mark.parametrize(
    "args, expected",
    [
        (["train.stesp=3"], "train.stesp: no such key (nearest: train.steps)"),
        (["train.lr=fast"], "train.lr: 'fast' is not a number"),
        (["train.steps=2.5"], "train.steps: 2.5 is not a whole number"),
        (["train.lr=-1"], "train.lr: must be greater than 0, not -1"),
        (["objective.name=mln"], "objective: no 'mln' among the objectives (nearest: mlm)"),
        (["objective.mask_rat=0.2"], "objective.mask_rat: no such key (nearest: objective.mask_rate)"),
        (["train.schedule=lineer"], "train.schedule: 'lineer' is none of linear, cosine, constant (nearest: linear)"),
        (["configs/pretrain/scrath.yaml"], "configs/pretrain/scrath.yaml: no such file (nearest: scratch.yaml)"),
        (["steps"], "steps: neither a .yaml file nor key=value"),
        (["corpus.sources=[{files: nowhere.txt}]"], "nowhere.txt: no such file"),
        (
            ["init=minilmm"],
            "minilmm: not a folder or built-in encoder (nearest: minilm), and not available on the hub (",
        ),
        (["init=out/runs/nope/encoder"], "out/runs/nope/encoder: no such folder"),
        (["init=configs"], "configs: not an encoder folder (it needs config.json and a .safetensors file)"),
        (["max_length=128"], "max_length: 128 is more than model.positions=64"),
        (["model.attention_heads=3"], "model.attention_heads: 3 does not divide model.hidden_size=32"),
    ],
)
def test_pretraining_mistakes(pretrain, sentiment_files, args, expected):
    lines = pretrain(f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]", *args)
    assert len(lines) <= 2 and lines[0].startswith(expected), lines


def test_all_mistakes_are_reported_at_once(pretrain):
    assert set(pretrain("corpus.sources=[{files: a.txt}]", "train.lr=fast", "sede=1", "train.stesp=3")) == {
        "train.stesp: no such key (nearest: train.steps)",
        "train.lr: 'fast' is not a number",
        "sede: no such key (nearest: seed)",
    }


def test_empty_corpora(pretrain, workspace):
    (workspace / "empty.txt").write_text("")
    assert pretrain("corpus.sources=[{files: empty.txt}]") == [
        "corpus c: no text in empty.txt (0 rows read, all empty)",
        "empty.txt: an empty file",
    ]
    (workspace / "blank.csv").write_text('text\n" "\n<br />\n')
    assert pretrain("corpus.sources=[{files: blank.csv}]") == [
        "corpus c: no text in blank.csv (2 rows read, all empty)"
    ]
    (line,) = pretrain("corpus.sources=[{files: blank.csv, text: txt}]")
    assert line == "blank.csv row 1: no column 'txt' (nearest: text)"


def test_a_corpus_with_all_documents_dropped_gives_the_reasons(pretrain, workspace):
    (workspace / "short.txt").write_text("one two\n\nthree four\n\n12345 678\n")
    assert pretrain("corpus.sources=[{files: short.txt}]", "corpus.filter.min_words=3") == [
        "corpus c: no text is left of short.txt ({'min_words': 3})"
    ]


def test_invalid_sources(pretrain, workspace):
    (workspace / "one.jpg").write_text("x")
    (workspace / "folder").mkdir()
    (workspace / "folder" / "one.jpg").write_text("x")
    assert pretrain("corpus.sources=[{files: one.jpg}]")[0].startswith("one.jpg: unknown extension")
    assert pretrain("corpus.sources=[{files: folder}]")[0].startswith(
        "folder: no file in this folder has a known extension"
    )
    assert pretrain("corpus.sources=[{files: folder, wheel: a}]")[0].startswith("corpus.sources.0: give exactly one of")


@pytest.mark.parametrize(
    "rows, args, expected",
    [
        (GOOD, ["task.label=[good, bad]"], "task.label: a column for each label needs task.problem_type=multi_"),
        (GOOD, ["task.label=lable"], "rows.csv row 1: no column 'lable' (nearest: label)"),
        (GOOD, ["task.text=body"], "rows.csv row 1: no column 'body' (there are: label, text)"),
        ("", [], "rows.csv: no rows"),
        ("good,yes\n" * 9, [], "rows.csv: every row has the label 'yes'; a classifier needs at least two classes"),
        (GOOD + ",yes\n", ["task.require_text=true"], "rows.csv row 41: no text in column 'text'"),
        ("words,\nmore,\n", [], "rows.csv: none of 2 rows has a label in column 'label'"),
        (GOOD, ["task.num_examples=500"], "task.num_examples=500: only 32 training rows; give a smaller number or all"),
        (GOOD, ["task.num_examples=1"], "task.num_examples=1: fewer than the 2 classes; give 2 or more"),
        (
            GOOD,
            ["task.label_names={yes: good, noo: bad}"],
            "rows.csv row 1: label 'no' has no name in task.label_names (nearest: noo)",
        ),
        (GOOD, ["encoder=minilm-l6"], "minilm-l6: not a folder or built-in encoder (nearest: minilm)"),
        (GOOD, ["layers.lr_decay=2"], "layers.lr_decay: must be less than or equal to 1, not 2"),
    ],
)
def test_fine_tuning_mistakes(finetune, rows, args, expected):
    lines = finetune(rows, *args)
    assert len(lines) <= 2 and lines[0].startswith(expected), lines


def test_a_label_missing_from_the_training_rows(finetune, workspace):
    (workspace / "test.csv").write_text("text,label\nwords,Yes\nwords,yes\n")
    assert finetune(GOOD, "task.test.files=test.csv") == [
        "test.csv: label 'Yes' (1 test row) does not occur in the training rows (nearest: yes)"
    ]


def test_a_text_without_tokens(finetune):
    assert finetune(GOOD.replace("sentence number 7,", "\u200b\u200b,")) == [
        "task your-task, validation: the text '\\u200b\\u200b' has no tokens"
    ]


def test_no_encoder_yet(workspace, capsys, monkeypatch):
    (workspace / "rows.csv").write_text("text,label\n" + GOOD)
    args = ["configs/finetune/your-task.yaml", "method=none", "task.train.files=rows.csv", "train.precision=float32"]
    assert error_lines(finetune_main, args, capsys, monkeypatch) == [
        "encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm"
    ]


def test_a_changed_configuration_is_refused(workspace, sentiment_files, capsys, monkeypatch):
    args = [*pretrain_args(sentiment_files), "run=x", "train.steps=2"]
    assert run_module("pretrain", *args).returncode == 0
    assert error_lines(pretrain_main, [*args, "train.lr=0.5"], capsys, monkeypatch) == [
        "out/runs/x: is finished, and was started with train.lr=0.001, not 0.5.",
        "Choose another name, run=x-2, or delete it.",
    ]


def test_changed_text_is_refused_unless_allowed(workspace, sentiment_files, capsys, monkeypatch):
    text = (sentiment_files / "corpus.txt").read_text()
    (workspace / "own.txt").write_text(text)
    args = ["configs/pretrain/scratch.yaml", *TINY_ARGS, "run=x", "corpus.name=c", "train.steps=2"]
    args.append("corpus.sources=[{files: own.txt}]")
    assert run_module("pretrain", *args).returncode == 0
    (workspace / "out/runs/x/encoder").rename(workspace / "moved")  # as if the run was not finished
    (workspace / "own.txt").write_text(text + "\n\nand one more")
    lines = error_lines(pretrain_main, args, capsys, monkeypatch)
    assert lines[0].startswith("out/runs/x: was started with another text and tokenizer."), lines
    assert run_module("pretrain", *args, "allow_changes=true").returncode == 0
    record = json.loads((workspace / "out/runs/x/encoder/record.json").read_text())
    (change,) = record["changes"]
    assert change["step"] == 2 and list(change["keys"]) == ["text", "tokenizer"]
    old, new = change["keys"]["text"]
    card = (workspace / "out/runs/x/encoder/README.md").read_text()
    assert f"- `x`: continued at step 2 with text={new} instead of {old}, tokenizer=" in card


def test_a_mistake_ends_the_process_with_exit_code_2_and_no_traceback(workspace):
    done = run_module("finetune", "configs/finetune/sentiment.yaml", "task.num_exampels=3")
    assert done.returncode == 2 and done.stderr == "task.num_exampels: no such key (nearest: task.num_examples)\n"


def test_what_an_earlier_version_wrote_is_refused_in_a_line(workspace, sentiment_files, capsys, monkeypatch):
    """A run folder, an encoder and a model with keys that have been renamed."""
    run = workspace / "out/runs/old"
    (run / "encoder").mkdir(parents=True)
    (run / "config.yaml").write_text("run: old\nlength: 32\n")
    (run / "encoder/config.json").write_text("{}")
    (run / "encoder/model.safetensors").write_text("")
    (run / "encoder/record.json").write_text('{"config": {"corpus": {"sources": [{"files": "a", "licence": "x"}]}}}')
    base = [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "corpus.name=c",
        f"corpus.sources=[{{files: {sentiment_files}}}]",
    ]
    lines = error_lines(pretrain_main, [*base, "run=old", "allow_changes=true"], capsys, monkeypatch)
    assert lines[0] == "out/runs/old: written by an earlier version of Headstart (length is now max_length)."
    task = ["configs/finetune/your-task.yaml", "method=none", f"task.train.files={sentiment_files}/labels.csv", "run=x"]
    encoder = "out/runs/old/encoder"
    for main, args in (
        (pretrain_main, [*base, "run=x", f"init={encoder}"]),
        (finetune_main, [*task, f"encoder={encoder}"]),
        (publish_main, ["run=out/runs/old", "repo=me/x", "dry_run=true"]),
    ):
        (line,) = error_lines(main, args, capsys, monkeypatch)
        assert line.startswith(
            f"{encoder}/record.json: written by an earlier version of Headstart (corpus.sources.0.licence is"
        )
        assert not (workspace / "out/runs/x").exists()
