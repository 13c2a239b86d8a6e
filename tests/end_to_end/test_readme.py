"""What README.md tells a newcomer to type is what there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
from helpers import ROOT, run_module

from data.config import Prepare
from engine.cli import parse_config
from engine.config.loader import load_config
from finetune.config import Finetune
from finetune.study.config import Study
from pretrain.config import Pretrain
from publish.config import Publish

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line[2:].split("#")[0].strip() for line in README.splitlines() if line.startswith("$ make")]
YAMLS = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
TABLE = [line.split("|")[1] for line in README.split("## Repository layout")[1].splitlines() if "|" in line]
FOLDERS = re.findall(r"`(\w+)/`", " ".join(TABLE))


@pytest.mark.parametrize("command", COMMANDS)
def test_make_commands_are_what_the_makefile_runs(command):
    """`make -n` with the set-up taken as done; the words it would run go through the real parser."""
    words = shlex.split(command)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    told = subprocess.run([*words, "-n", "-o", ".venv/ready"], cwd=ROOT, capture_output=True, text=True, env=outside)
    assert told.returncode == 0, told.stderr
    line = shlex.split(told.stdout.strip().splitlines()[-1])
    if "pytest" not in line:
        stage = line[line.index("-m") + 1]
        schema = {
            "data": Prepare,
            "pretrain": Pretrain,
            "finetune": Finetune,
            "finetune.study": Study,
            "publish": Publish,
        }[stage]
        assert parse_config(schema, line[line.index("-m") + 2 :], stage, "")


def test_readme_shows_both_commands_with_their_output():
    assert COMMANDS[:2] == ["make pretrain", "make finetune TASK=sentiment"] and "make test" in COMMANDS
    assert "of held-out texts' second halves among" in README and "macro F1" in README and "OUTPUT" not in README


def test_python_commands(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = re.findall(r"-m (pretrain|finetune) (configs/[^`\n]*)`", README)
    assert len(found) == 2
    for stage, words in found:
        load_config({"pretrain": Pretrain, "finetune": Finetune}[stage], words.split())


@pytest.mark.parametrize("number, stage", [(0, "pretrain"), (1, "finetune")])
def test_own_text_and_own_labels_in_ten_lines(number, stage, tmp_path, sentiment_files, workspace):
    text = YAMLS[number]
    assert len(text.strip().splitlines()) <= 10
    (workspace / "configs").unlink()
    (workspace / "configs").mkdir()
    for folder in ("corpus", "pretrain", "finetune", "quality"):
        (workspace / "configs" / folder).mkdir()
        for path in (ROOT / "configs" / folder).glob("*.yaml"):
            (workspace / "configs" / folder / path.name).write_text(path.read_text())
    (workspace / "configs" / stage / "mine.yaml").write_text(text)
    (workspace / "texts").mkdir()
    (workspace / "texts" / "a.txt").write_text((sentiment_files / "corpus.txt").read_text())
    (workspace / "labels.csv").write_text((sentiment_files / "labels.csv").read_text())
    done = run_module(
        stage,
        f"configs/{stage}/mine.yaml",
        "train.steps=2",
        "train.batch_size=4",
        *(["eval_rows=4"] if stage == "pretrain" else ["encoder=minilm", "baselines=false", "task.num_examples=8"]),
    )
    assert done.returncode == 0, done.stderr


def test_the_folders_it_names_are_there_and_no_other():
    named = set(FOLDERS) | {"out"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    there = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert there <= named and all((ROOT / name).is_dir() for name in named - {"out"})


def test_help_tells_every_key():
    for stage, keys in (
        ("pretrain", ["objective.mask_rate", "train.lr", "init"]),
        ("finetune", ["task.num_examples", "layers.lr_decay", "encoder", "train.epochs"]),
    ):
        told = run_module(stage, "--help", cwd=ROOT)
        assert told.returncode == 0 and all(re.search(rf"^  {re.escape(key)} ", told.stdout, re.M) for key in keys)
