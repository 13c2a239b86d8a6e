"""From a file of text and a file of labels to a model, by two short commands."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

from helpers import RUN_COMMANDS, TINY_ARGS, environment

from engine.config.loader import load_config
from finetune.config import Finetune
from pretrain.config import Pretrain

TINY = [arg for arg in TINY_ARGS if arg != "train.batch_size=8"]


def test_text_and_labels_become_a_model_and_a_configuration_to_edit(workspace, sentiment_files):
    """The end of the only document is held out; evaluations are of a part of the validation rows."""
    text = (sentiment_files / "corpus.txt").read_text()
    (workspace / "book.txt").write_text(" ".join(text.split()))
    with open(sentiment_files / "labels.csv", newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    with open(workspace / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([("Sentence", "Class"), *rows[::4], ("", "positive")])
    common = ["train.steps=4", "train.batch_size=8", "train.precision=float32"]
    pretrain = ["configs/pretrain/scratch.yaml", "text=book.txt", "run=mine", *TINY, *common, "train.optimizer=adamw"]
    finetune = [
        "labels=labels.csv",
        "run=labels",
        "method=layerwise",
        *common,
        "max_length=16",
        "train.eval_every=2",
        "train.eval_rows=5",
    ]
    again = ["out/runs/labels/arguments.yaml"]
    commands = [["pretrain", pretrain], ["finetune", finetune], ["finetune", again]]
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)],
        **{"cwd": workspace, "env": environment(), "capture_output": True, "text": True, "timeout": 300},
    )
    assert done.returncode == 0, done.stderr
    assert "one document; its end is held out; unit: line makes every line" in done.stderr
    assert "labels.csv: 1 row without text left out" in done.stderr
    assert "  as YAML         out/runs/mine/arguments.yaml" in done.stdout
    assert "  as YAML out/runs/labels/argum" in done.stdout
    assert "out/runs/labels is finished." in done.stdout, "the written configuration must be that of the run"
    report = json.loads(next((workspace / "out/shards").glob("mine-text-*/report.json")).read_text())
    assert report["train"]["documents"] == report["held_out"]["documents"] == 1 and report["held_out"]["tokens"] >= 128

    saved = load_config(Pretrain, [str(workspace / "out/runs/mine/arguments.yaml")])
    assert saved.corpus == load_config(Pretrain, [str(workspace / "out/runs/mine/config.yaml")]).corpus
    assert not saved.corpus.decontaminate.tasks
    metrics = json.loads((workspace / "out/runs/labels/metrics.json").read_text())
    assert load_config(Finetune, [str(workspace / "out/runs/labels/config.yaml")]).task.name == "labels"
    counts, evaluation = metrics["evaluation"]["rows"], metrics["evaluation"]
    assert counts == {"train": 76, "validation": 12, "test": 12} and metrics["test"]["n"] == 12
    assert evaluation["rows_per_evaluation"] == 5 and evaluation["evaluations"] == 2
    truncated = evaluation["truncated"]
    assert 0 < truncated["train"] <= 76 and evaluation["max_length"] == 16
    line = f"cut at 16 tokens: {truncated['train']} of 76 training"
    page = (workspace / "out/runs/labels/report.html").read_text()
    assert line in done.stdout and line in page
    assert "evaluated 2 times on 5 of 12 validation rows" in done.stdout and "12 validation and 12 test rows" in page
