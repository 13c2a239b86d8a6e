"""Helpers of several test files: run commands, and arguments of a network that trains in seconds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fork_server import Fork

ROOT = Path(__file__).parent.parent
TINY_ARGS = [
    "init=none",
    "max_length=32",
    "short_sequence_fraction=0",
    "tokenizer.vocab_size=512",
    "model.layers=2",
    "model.hidden_size=32",
    "model.attention_heads=2",
    "model.intermediate_size=32",
    "model.positions=64",
    "eval_rows=8",
    "train.batch_size=8",
    "train.precision=float32",
]


def environment(**overrides: str) -> dict[str, str]:
    """Return an environment for a process that imports the project from another folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **overrides}


def run_module(
    *args: str,
    prefix: tuple[str, ...] = (sys.executable, "-m"),
    cwd: Path | None = None,
    fresh: bool = False,
    **overrides: str,
) -> subprocess.CompletedProcess:
    """Run `python -m ARGS...` in a child process.

    fresh: start Python; the default is a fork of a process that has imported the libraries, except with overrides of
    the environment, which an import may read, and with options of Python.
    """
    env, timeout = environment(**overrides), 300
    if not fresh and not overrides and prefix in ((sys.executable, "-m"), (sys.executable, "-c"), (sys.executable,)):
        return Fork([*prefix[1:], *args], cwd, env).complete(timeout)
    return subprocess.run([*prefix, *args], capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout)


def start_module(*args: str, prefix: tuple[str, ...] = ("-m",), cwd: Path | None = None) -> Fork:
    """Start `python -m ARGS...` as a fork, to be killed or waited for; other prefixes are "-c" and none, for a script.

    It has no standard input.
    """
    return Fork([*prefix, *args], cwd, environment())


def run_two_processes(*args: str, cwd: Path, **overrides: str) -> list[subprocess.CompletedProcess]:
    """Run a script in two forks that train together, with the variables that torchrun sets; return both results."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    forks = [Fork([*args], cwd, environment(**shared, **rank, **overrides)) for rank in ranks]
    return [fork.complete() for fork in forks]


def check_in_this_process(args: list[str]) -> dict:
    """Load a saved folder in this process instead of a new one, in place of `engine.models.verify.run_load_check`."""
    from engine.errors import DataError, first_line
    from engine.models import load_check

    try:
        return load_check.check(*args)
    except Exception as error:
        raise DataError(f"transformers cannot load it: {first_line(error)}") from None


def error_lines(main: Callable[[list[str]], None], args: list[str], capsys, monkeypatch) -> list[str]:
    """Return the error lines of a command that must exit with code 2; run in this process, which saves ten seconds."""
    from engine.cli import run_command

    monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
    with pytest.raises(SystemExit) as exit_info:
        run_command(main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert exit_info.value.code == 2 and "Traceback" not in "".join(lines), lines
    return lines


RUN_COMMANDS = """
import json, sys
from engine.models import load_check, verify
from finetune.__main__ import main as finetune
from pretrain.__main__ import main as pretrain
verify.run_load_check = lambda args: load_check.check(*args)  # saves a process for each command
for stage, args in json.loads(sys.argv[1]):
    {"pretrain": pretrain, "finetune": finetune}[stage](args)
"""


def pretrain_args(sentiment_files: Path) -> list[str]:
    return [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "corpus.name=tiny",
        "corpus.held_out=0.1",
        "train.optimizer=adamw",
        f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]",
    ]


def finetune_args(sentiment_files: Path) -> list[str]:
    return [
        "configs/finetune/your-task.yaml",
        "method=none",
        f"task.train.files={sentiment_files}/labels.csv",
        "train.precision=float32",
        "max_length=32",
    ]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of this size in `folder` for a while; skip the test where that is not possible."""
    disk = folder / "small"
    disk.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def encoder_record() -> dict:
    """Return the record.json of an encoder."""
    counts = {"documents": 9, "tokens": 90, "rows": 3}
    return {
        "kind": "encoder",
        "run": "enc",
        "init": None,
        "init_record": {},
        "steps": 200,
        "max_length": 32,
        "versions": {},
        "eval": {"loss": 2.0},
        "shards_manifest": {"train": counts, "held_out": counts},
        "config": {
            "corpus": {"name": "c", "sources": []},
            "objective": {"name": "mlm"},
            "train": {"steps": 400},
            "dropout": 0.0,
            "seed": 0,
            "eval_rows": 8,
        },
    }
