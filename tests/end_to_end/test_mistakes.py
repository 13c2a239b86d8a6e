"""A user's mistake: one or two lines that name the thing and the nearest right one, exit code 2, nothing left behind."""

from __future__ import annotations

import pytest
from helpers import TINY_ARGS, error_lines, run_module

from finetune.__main__ import main as finetune_main
from pretrain.__main__ import main as pretrain_main


@pytest.fixture
def pretrain(workspace, capsys, monkeypatch):
    base = ["configs/pretrain/scratch.yaml", *TINY_ARGS, "run=x", "corpus.name=c", "train.steps=2"]

    def attempt(*words):
        lines = error_lines(pretrain_main, [*base, *words], capsys, monkeypatch)
        assert not (workspace / "out/runs").exists() and not list((workspace / "out").glob("*/.*"))
        return lines

    return attempt


@pytest.fixture
def finetune(workspace, capsys, monkeypatch):
    def attempt(rows, *words, header="text,label"):
        (workspace / "rows.csv").write_text(header + "\n" + rows, encoding="utf-8")
        lines = error_lines(
            finetune_main,
            [
                "configs/finetune/your-task.yaml",
                "task.train.files=rows.csv",
                "run=x",
                "encoder=minilm",
                "train.precision=float32",
                *words,
            ],
            capsys,
            monkeypatch,
        )
        assert not (workspace / "out/runs").exists()
        return lines

    return attempt


GOOD = "".join(f"sentence number {number},{'yes' if number % 2 else 'no'}\n" for number in range(40))


@pytest.mark.parametrize(
    "words, expected",
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
        (["init=minilmm"], "minilmm: neither a folder, nor built in (nearest: minilm)"),
        (["init=out/runs/nope/encoder"], "out/runs/nope/encoder: no such folder"),
        (["init=configs"], "configs: not an encoder folder (no config.json with a .safetensors file beside it)"),
        (["max_length=128"], "max_length: 128 is more than model.positions=64"),
        (["model.attention_heads=3"], "model.attention_heads: 3 does not divide model.hidden_size=32"),
    ],
)
def test_pretraining_mistakes(pretrain, sentiment_files, words, expected):
    lines = pretrain(f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]", *words)
    assert len(lines) <= 2 and lines[0].startswith(expected), lines


def test_every_mistake_is_told_at_once(pretrain):
    assert set(pretrain("corpus.sources=[{files: a.txt}]", "train.lr=fast", "sede=1", "train.stesp=3")) == {
        "train.stesp: no such key (nearest: train.steps)",
        "train.lr: 'fast' is not a number",
        "sede: no such key (nearest: seed)",
    }


def test_corpora_with_nothing_in_them(pretrain, workspace):
    (workspace / "empty.txt").write_text("")
    assert pretrain("corpus.sources=[{files: empty.txt}]") == [
        "corpus c: no text in empty.txt (0 rows read, all empty)",
        "empty.txt: an empty file",
    ]
    (workspace / "blank.csv").write_text('text\n" "\n<br />\n')
    assert pretrain("corpus.sources=[{files: blank.csv}]") == [
        "corpus c: no text in blank.csv (2 rows read, all empty)"
    ]
    assert pretrain("corpus.sources=[{files: blank.csv, text: txt}]") == ["blank.csv: no column 'txt' (nearest: text)"]


def test_a_corpus_of_which_nothing_is_left_says_what_was_dropped(pretrain, workspace):
    (workspace / "short.txt").write_text("one two\n\nthree four\n\n12345 678\n")
    assert pretrain("corpus.sources=[{files: short.txt}]", "corpus.filter.min_words=3") == [
        "corpus c: no text is left of short.txt ({'min_words': 3})"
    ]


def test_a_source_that_is_none_of_what_there_is(pretrain, workspace):
    (workspace / "one.jpg").write_text("x")
    (workspace / "folder").mkdir()
    (workspace / "folder" / "one.jpg").write_text("x")
    assert pretrain("corpus.sources=[{files: one.jpg}]")[0].startswith("one.jpg: unknown extension")
    assert pretrain("corpus.sources=[{files: folder}]")[0].startswith(
        "folder: no file in this folder has a known extension"
    )
    assert pretrain("corpus.sources=[{files: folder, wheel: a}]")[0].startswith("corpus.sources.0: give exactly one of")


@pytest.mark.parametrize(
    "rows, words, expected",
    [
        (GOOD, ["task.label=lable"], "rows.csv: no column 'lable' (nearest: label)"),
        (GOOD, ["task.text=body"], "rows.csv: no column 'body' (there are: label, text)"),
        ("", [], "rows.csv: no rows"),
        ("good,yes\n" * 9, [], "rows.csv: every row has the label 'yes'; a classifier needs two classes or more"),
        (GOOD + ",yes\n", [], "rows.csv row 41: no text in column 'text'"),
        (GOOD + "words,\n", [], "rows.csv row 41: no label in column 'label'"),
        (
            GOOD,
            ["task.num_examples=500"],
            "task.num_examples=500: there are 32 training rows; give a smaller number or all",
        ),
        (GOOD, ["task.num_examples=1"], "task.num_examples=1: fewer than the 2 classes; give 2 or more"),
        (
            GOOD,
            ["task.label_names={yes: good, noo: bad}"],
            "rows.csv row 1: label 'no' has no name in task.label_names (nearest: noo)",
        ),
        (GOOD, ["encoder=minilm-l6"], "minilm-l6: neither a folder, nor built in (nearest: minilm)"),
        (GOOD, ["layers.lr_decay=2"], "layers.lr_decay: must be less than or equal to 1, not 2"),
    ],
)
def test_fine_tuning_mistakes(finetune, rows, words, expected):
    lines = finetune(rows, *words)
    assert len(lines) <= 2 and lines[0].startswith(expected), lines


def test_a_label_never_seen_in_training(finetune, workspace):
    (workspace / "test.csv").write_text("text,label\nwords,yess\nwords,yes\n")
    assert finetune(GOOD, "task.test.files=test.csv") == [
        "test.csv: label 'yess' (1 test row) is never seen in training (nearest: yes)"
    ]


def test_a_text_of_zero_tokens(finetune):
    assert finetune(GOOD.replace("sentence number 7,", "\u200b\u200b,")) == [
        "task your-task, validation: the text '\\u200b\\u200b' has no tokens"
    ]


def test_no_encoder_yet(workspace, capsys, monkeypatch):
    (workspace / "rows.csv").write_text("text,label\n" + GOOD)
    assert error_lines(
        finetune_main,
        ["configs/finetune/your-task.yaml", "task.train.files=rows.csv", "train.precision=float32"],
        capsys,
        monkeypatch,
    ) == ["encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm"]


def test_another_configuration_under_the_same_name(workspace, sentiment_files, capsys, monkeypatch):
    words = [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "run=x",
        "corpus.name=c",
        "train.steps=2",
        "corpus.held_out=0.1",
        f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]",
    ]
    assert run_module("pretrain", *words).returncode == 0
    assert error_lines(pretrain_main, [*words, "train.lr=0.5"], capsys, monkeypatch) == [
        "out/runs/x: was started with train.lr=0.001, not 0.5.",
        "Give this one a name of its own, run=x-2, or go on all the same, allow_changes=true.",
    ]


def test_text_that_changed_under_a_run(workspace, sentiment_files, capsys, monkeypatch):
    text = (sentiment_files / "corpus.txt").read_text()
    (workspace / "own.txt").write_text(text)
    words = [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "run=x",
        "corpus.name=c",
        "train.steps=2",
        "corpus.sources=[{files: own.txt}]",
    ]
    assert run_module("pretrain", *words).returncode == 0
    (workspace / "out/runs/x/encoder").rename(workspace / "moved")  # as if it had not been finished
    (workspace / "own.txt").write_text(text + "\n\nand one more")
    lines = error_lines(pretrain_main, words, capsys, monkeypatch)
    assert lines[0].startswith("out/runs/x: was started with another text and tokenizer."), lines
    assert run_module("pretrain", *words, "allow_changes=true").returncode == 0


def test_a_process_ends_with_code_2_and_no_traceback(workspace):
    done = run_module("finetune", "configs/finetune/sentiment.yaml", "task.lables=3")
    assert done.returncode == 2 and done.stderr == "task.lables: no such key (nearest: task.num_examples)\n"
