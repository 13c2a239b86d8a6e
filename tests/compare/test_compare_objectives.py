"""A whole comparison on text: killed at a random moment, resumed, and its page in a browser."""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from browser import load_page
from helpers import ROOT, run_module, start_module

from compare import report

# Trainings are forks of a process that has imported the libraries, which saves ten seconds each.
DRIVER = """
import ctypes, os, signal, sys
from types import SimpleNamespace
from compare import pretraining
from compare.__main__ import main
from engine.cli import run_command
from pretrain.__main__ import main as pretrain

def run_child(args, env, output, watch):
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # as run_child does: it ends with its parent
        os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        try:
            sys.argv = args
            run_command(pretrain)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
    ended = 0
    while not ended:
        watch(SimpleNamespace(pid=pid, kill=lambda: os.kill(pid, signal.SIGKILL)))
        ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status)

pretraining.run_child, pretraining.MIN_SPEED_SECONDS = run_child, 0.05
run_command(main)
"""
CORPUS = """
max_length: 32
tokenizer: {vocab_size: 512}
model: {layers: 2, hidden_size: 32, attention_heads: 2, intermediate_size: 32, positions: 64}
eval_rows: 8
train: {batch_size: 8, precision: float32}
corpus: {name: tiny, held_out: 0.1, sources: [{files: corpus.txt}]}
"""
TASK = """
include: configs/finetune/default.yaml
run: tiny
max_length: 32
task: {name: tiny, train: {files: labels.csv}, text: text, label: label}
train: {precision: float32}
"""
ARGS = (
    *("corpus=tiny.yaml", "tasks=[tiny-task.yaml]", "objectives=[mlm,contrastive]", "init=none", "budget=0.3"),
    *("seeds=2", "shots=[4]", "finetune=[train.steps=2]"),
)


@pytest.fixture(scope="module")
def folder(sentiment_files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name in ("labels.csv", "corpus.txt"):
        (folder / name).symlink_to(sentiment_files / name)
    for name, text in (("driver.py", DRIVER), ("tiny.yaml", CORPUS), ("tiny-task.yaml", TASK)):
        (folder / name).write_text(text)
    return folder


def list_results(folder: Path) -> dict[Path, int]:
    """Return the time of every finished training and trial."""
    found = [*folder.glob("pretraining/*/encoder/model.safetensors"), *folder.glob("tasks/*/trials/*.json")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def resumed(folder) -> tuple[Path, str]:
    """Run a comparison that is killed once; return its folder and the output of the run that finished it."""
    results, wanted = folder / "out/comparisons/tiny", random.randrange(1, 14)  # of 2 trainings and 14 trials
    process = start_module("driver.py", *ARGS, prefix=(), cwd=folder)
    while process.poll() is None and len(list_results(results)) < wanted:
        time.sleep(0.01)
    time.sleep(random.random() / 2)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    while process.poll() is None:
        time.sleep(0.01)
    finished = list_results(results)
    assert len(finished) >= wanted, process.stderr.read_text()
    done = run_module("driver.py", *ARGS, prefix=(sys.executable,), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert finished.items() <= list_results(results).items(), "nothing that was finished is done again"
    assert done.stdout.count("accuracy 0.") == 14 - sum("trials" in str(path) for path in finished)
    return results, done.stdout


def test_every_row_has_the_same_labels_and_the_table_has_the_baselines(resumed):
    results, output = resumed
    summary = json.loads((results / "report.json").read_text())
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows.keys() == {"start", "mlm", "contrastive", "random", "onehot", "tfidf"}
    failed = rows["contrastive"]
    assert failed["failed"] == "objective.max_span: 48 tokens and two special ones do not fit max_length=32"
    assert failed["scores"]["finetuned"]["mean"] is None and summary["rows"][-1] is failed
    mlm = rows["mlm"]
    assert len(mlm["steps"]) == 1 == len(mlm["cpu_seconds"]) and 0.1 < mlm["cpu_seconds"][0] < 0.9
    assert (
        mlm["scores"]["finetuned"]["gain"]["low"] is not None and rows["tfidf"]["scores"]["finetuned"]["mean"] is None
    )
    sampled, trials = {}, [json.loads(path.read_text()) for path in results.glob("tasks/*/trials/*.json")]
    for trial in trials:
        sampled.setdefault((trial["num_examples"], trial["seed"]), set()).add(trial["sampled"])
    assert len(sampled) == 2 and all(len(hashes) == 1 for hashes in sampled.values())
    assert len(trials) == 2 * (5 + 2), "each seed: a start with three baselines, and mlm"
    gain, curve = mlm["floor_gain"], summary["tasks"][0]["curves"]["probe"]
    means = [np.mean([point["mean"] for point in curve[name]]) for name in ("mlm", "onehot")]
    assert gain["low"] < gain["difference"] < gain["high"] and gain["difference"] == pytest.approx(means[0] - means[1])
    assert rows["onehot"]["network"] == "one-hot words + logistic regression" and not rows["onehot"]["floor_gain"]
    assert rows["onehot"]["scores"]["probe"]["gain"]["low"] is not None
    assert "| baseline (one-hot words + logistic regression) |" in (results / "report.md").read_text()
    assert summary["sentence"] in output and "contrastive: failed: objective.max_span" in output
    assert not any((results.parents[1] / "runs").glob("*/encoder")), "no later command takes one for the newest"


def test_the_page_is_self_contained_and_starts_with_the_conclusion(resumed, tmp_path):
    results, _ = resumed
    dom, requests = load_page(results / "report.html", tmp_path)
    assert set(requests) <= {"/report.html", "/favicon.ico"}
    summary = json.loads((results / "report.json").read_text())
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", dom, flags=re.DOTALL)
    shown = " ".join(text.split())
    assert shown.index(summary["sentence"]) < shown.index("League table") < shown.index("by the number of labels")
    assert "failed: objective.max_span" in shown and dom.count("<svg") == 1
    table = re.search(r'<table class="league">.*?</table>', dom, re.DOTALL)[0]
    first = [
        re.sub(r"<small>.*", "", cell, flags=re.DOTALL)
        for cell in re.findall(r"<tr[^>]*><td>(.*?)</td>", table, re.DOTALL)
    ]
    assert [cell.strip() for cell in first] == [report.name_row(row)[0] for row in summary["rows"]]
    assert "driver.py" not in dom and "python -m compare corpus=tiny.yaml" in shown
    markdown = (results / "report.md").read_text()
    assert summary["sentence"].split(":")[0] in markdown and "| contrastive (new modernbert, failed: " in markdown
