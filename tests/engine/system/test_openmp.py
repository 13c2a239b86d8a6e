"""OpenMP wait policy: threads spin only on an idle machine without other trainings."""

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
def user_environment(monkeypatch, tmp_path) -> dict[str, str]:
    """Replace the environment by one without OpenMP settings and other trainings."""
    monkeypatch.setattr(openmp, "CLAIM_ADDRESS", f"\0{tmp_path}")
    monkeypatch.setattr(openmp, "held_claims", [])
    environment = {name: value for name, value in os.environ.items() if name not in openmp.USER_VARS}
    monkeypatch.setattr(os, "environ", environment)
    return environment


@pytest.mark.parametrize(
    "training, cpu_percent, settings, expected",
    [
        (True, 3.0, {}, {"GOMP_SPINCOUNT": openmp.SPIN_COUNT}),
        (True, 60.0, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (False, 3.0, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
        (True, 3.0, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_spin_only_on_an_idle_machine_without_user_settings(
    user_environment, monkeypatch, training, cpu_percent, settings, expected
):
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: cpu_percent)
    user_environment.update(settings)
    openmp.set_wait_policy(training)
    assert {name: user_environment[name] for name in openmp.USER_VARS & user_environment.keys()} == expected


def test_a_training_command_sets_the_policy_and_help_does_not(user_environment, monkeypatch, capsys):
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 0.0)
    assert parse_config(Pretrain, ["--help"], "pretrain", "") is None and not openmp.USER_VARS & user_environment.keys()
    parse_config(Pretrain, ["configs/pretrain/scratch.yaml", *TINY_ARGS], "pretrain", "")
    assert user_environment["GOMP_SPINCOUNT"] == openmp.SPIN_COUNT and "OMP_WAIT_POLICY" not in user_environment


def test_a_background_command_does_not_spin(user_environment, monkeypatch, tmp_path):
    (tmp_path / "show.py").write_text(
        "import os\nprint(os.environ.get('GOMP_SPINCOUNT'), os.environ['OMP_WAIT_POLICY'])\n"
    )
    monkeypatch.chdir(tmp_path)
    user_environment.update(PYTHONPATH=str(tmp_path), GOMP_SPINCOUNT=openmp.SPIN_COUNT)
    command = BackgroundCommand(tmp_path / "log")
    assert command.start(["show"])
    command.wait()
    assert (tmp_path / "log").read_text() == "None PASSIVE\n"


def test_only_one_of_two_trainings_spins(user_environment, monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 0.0)
    first = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom engine.system import openmp\nopenmp.CLAIM_ADDRESS = '\\0' + sys.argv[1]\n"
            "print(openmp.claim_spinning(), flush=True)\ninput()",
            str(tmp_path),
        ],
        env=user_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "True\n"
    openmp.set_wait_policy(training=True)
    assert user_environment["OMP_WAIT_POLICY"] == "PASSIVE" and "GOMP_SPINCOUNT" not in user_environment
    first.kill()
    first.wait()
    del user_environment["OMP_WAIT_POLICY"]
    openmp.set_wait_policy(training=True)
    assert user_environment["GOMP_SPINCOUNT"] == openmp.SPIN_COUNT, "a dead process holds no claim"


def test_a_claim_writes_no_file(user_environment, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 0.0)
    openmp.set_wait_policy(training=True)
    assert user_environment["GOMP_SPINCOUNT"] == openmp.SPIN_COUNT and not list(tmp_path.iterdir())
