"""Background commands, and the push of checkpoints by them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import ROOT, encoder_record, pretrain_args
from hub import HubServer

from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from engine.runs.background import BackgroundCommand
from pretrain.__main__ import main as pretrain_main
from pretrain.config import Pretrain
from publish.hub.push_checkpoint import main


def test_commands_run_one_at_a_time_and_are_counted(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import sys, time\ntime.sleep(0.5)\nprint('output')\nsys.exit(*map(int, sys.argv[1:]))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = BackgroundCommand(tmp_path / "log")
    assert command.wait() == "" and command.start(["slow"]) and not command.start(["slow"])
    while command.is_running():
        time.sleep(0.02)
    assert command.start(["slow", "3"])
    assert command.wait() == "1 done, 1 failed, 1 skipped: output"
    assert (tmp_path / "log").read_text() == "output\noutput\n"
    assert BackgroundCommand(tmp_path / "other").wait() == ""


def test_a_command_that_cannot_start_is_counted_and_raises_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    command = BackgroundCommand(tmp_path / "log")
    assert not command.start(["x"]) and command.wait().startswith("0 done, 1 failed")


PARENT = """
import os, sys
from engine.runs.background import run_child
from engine.cli import run_command
run_command(lambda args: sys.exit(run_child(["child"], dict(os.environ))))
"""
CHILD = """
import signal, time
received = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: received.append(number))
open("started", "w").close()
while not received:
    time.sleep(0.02)
time.sleep(0.2)
open("saved", "w").close()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_child_saves_and_ends_with_its_parent(tmp_path, number, code):
    (tmp_path / "child.py").write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=environment)
    wait_for_file(tmp_path / "started")
    parent.send_signal(number)
    assert parent.wait(20) == code
    wait_for_file(tmp_path / "saved")


def wait_for_file(path: Path) -> None:
    for _ in range(1_000):
        if path.is_file():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path.name} is missing")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """Write an encoder folder like that of pretraining, except for its weights."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "pushing"
    folder.mkdir()
    record = encoder_record()
    (folder / "record.json").write_text(json.dumps(record))
    save_file({"weight": torch.zeros(4)}, folder / "model.safetensors")
    return folder


def test_a_checkpoint_is_pushed_to_its_branch(checkpoint, monkeypatch):
    with HubServer() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        command = BackgroundCommand(checkpoint.parent / "push.log")
        args = ["publish.hub.push_checkpoint", f"folder={checkpoint}", "repo=me/enc"]
        assert command.start(args) and command.wait() == "1 done, 0 failed", command.log_path.read_text()
        repository = hub.repositories["models/me/enc"]
        assert repository.private and repository.messages == ["initial commit", "enc, step 200"] and not repository.tags
        assert repository.files("checkpoints").keys() >= {"model.safetensors", "record.json", "README.md"}
        assert repository.files("main").keys() == {".gitattributes"}

        (line,) = command.log_path.read_text().splitlines()
        assert line.endswith(f"step 200: 3 files to {hub.url}/me/enc/tree/checkpoints")


def test_a_failed_push_is_reported_in_one_line(checkpoint, monkeypatch):
    monkeypatch.setattr("os.nice", lambda by: 0)
    (checkpoint / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="^2[-0-9: ]+ not pushed: .*optimizer.safetensors: does not belong") as error:
        main([f"folder={checkpoint}", "repo=me/enc"])
    assert len(str(error.value).splitlines()) == 1


def test_concurrent_pushes_are_skipped(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("os.nice", lambda by: 0)
    with FileLock(checkpoint.parent / ".push.lock"):
        main([f"folder={checkpoint}", "repo=me/enc"])
    assert "skipped: another push is running" in capsys.readouterr().out


@pytest.mark.parametrize("hub_works", [pytest.param(True, marks=pytest.mark.slow), False])
def test_checkpoints_are_pushed_during_training_and_a_dead_hub_does_not_stop_it(
    workspace, sentiment_files, capsys, monkeypatch, hub_works
):
    with HubServer() as hub:
        for name, value in (hub.environment | ({} if hub_works else {"HF_ENDPOINT": "http://127.0.0.1:9"})).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        pretrain_main(
            [
                *pretrain_args(sentiment_files),
                "run=enc",
                "train.steps=4",
                "train.save_every=2",
                "push_every=2",
                "push_to=me/enc",
                "train.eval_every=2",
            ]
        )
        stdout = capsys.readouterr().out
        assert (workspace / "out/runs/enc/encoder/record.json").is_file()
        if not hub_works:
            assert re.search(r"  pushed          0 done, 1 failed.*: 20.* not pushed: ", stdout), stdout
            return
        assert re.search(r"  pushed          1 done, 0 failed", stdout), stdout
        files = hub.repositories["models/me/enc"].files("checkpoints")
        assert json.loads(files["record.json"])["steps"] in (2, 4) and "model.safetensors" in files
        assert not any("optimizer" in name or "sample" in name for name in files)


@pytest.mark.parametrize(
    "args, message",
    [
        (["push_every=2"], "push_every needs push_to=OWNER/NAME"),
        (["push_every=3", "push_to=me/x"], "push_every=3 is not a multiple of train.save_every=400"),
        (["push_every=400", "push_to=x"], "push_to: "),
    ],
)
def test_invalid_push_settings_are_rejected(args, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        load_config(Pretrain, ["configs/pretrain/scratch.yaml", *args])
