"""How threads wait: awake on an idle machine that is ours alone, else asleep."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from helpers import TINY_ARGS

from engine.cli import parse_config
from engine.runs.background import BackgroundCommand
from engine.system import openmp
from pretrain.config import Pretrain


@pytest.fixture
def said(monkeypatch, tmp_path) -> dict[str, str]:
    """The environment, as a person has it who has said nothing and trains nothing else, for the length of a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = {name: value for name, value in os.environ.items() if name not in openmp.USER_VARS}
    monkeypatch.setattr(os, "environ", kept)
    return kept


@pytest.mark.parametrize(
    "training, in_use, words, expected",
    [
        (True, 3.0, {}, {"GOMP_SPINCOUNT": openmp.SPIN_COUNT}),
        (True, 60.0, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (False, 3.0, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_awake_only_where_the_machine_is_idle_and_nobody_said_otherwise(
    said, monkeypatch, training, in_use, words, expected
):
    monkeypatch.setattr(openmp.psutil, "cpu_percent", lambda seconds: in_use)
    said.update(words)
    openmp.set_wait_policy(training)
    assert {name: said[name] for name in openmp.USER_VARS & said.keys()} == expected


def test_a_command_that_trains_looks_and_one_that_only_helps_does_not(said, monkeypatch, capsys):
    monkeypatch.setattr(openmp.psutil, "cpu_percent", lambda seconds: 0.0)
    assert parse_config(Pretrain, ["--help"], "pretrain", "") is None and not openmp.USER_VARS & said.keys()
    parse_config(Pretrain, ["configs/pretrain/scratch.yaml", *TINY_ARGS], "pretrain", "")
    assert said["GOMP_SPINCOUNT"] == openmp.SPIN_COUNT and "OMP_WAIT_POLICY" not in said


def test_what_works_beside_a_training_sleeps(said, monkeypatch, tmp_path):
    (tmp_path / "tell.py").write_text(
        "import os\nprint(os.environ.get('GOMP_SPINCOUNT'), os.environ['OMP_WAIT_POLICY'])\n"
    )
    monkeypatch.chdir(tmp_path)
    said.update(PYTHONPATH=str(tmp_path), GOMP_SPINCOUNT=openmp.SPIN_COUNT)
    beside = BackgroundCommand(tmp_path / "log")
    assert beside.start(["tell"])
    beside.wait()
    assert (tmp_path / "log").read_text() == "None PASSIVE\n"


def test_of_two_that_start_at_once_one_sleeps(said, monkeypatch, tmp_path):
    monkeypatch.setattr(openmp.psutil, "cpu_percent", lambda seconds: 0.0)
    first = subprocess.Popen(
        [sys.executable, "-c", "from engine.system.openmp import only_one; print(only_one(), flush=True); input()"],
        env=said | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "True\n"
    openmp.set_wait_policy(training=True)
    assert said["OMP_WAIT_POLICY"] == "PASSIVE" and "GOMP_SPINCOUNT" not in said
    first.kill()
    first.wait()
    del said["OMP_WAIT_POLICY"]
    openmp.set_wait_policy(training=True)
    assert said["GOMP_SPINCOUNT"] == openmp.SPIN_COUNT, "a process that has died keeps nobody asleep"
