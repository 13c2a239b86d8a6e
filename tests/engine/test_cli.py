"""How a command ends: on terminals without a character, and on disks that cannot be written."""

from __future__ import annotations

import errno
import os
import signal

import pytest
from helpers import ROOT, error_lines, run_module
from safetensors import SafetensorError


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_terminal_without_a_character_does_not_change_the_exit_code(tmp_path, encoding):
    (tmp_path / "command.py").write_text(
        "from engine.cli import run_command\n"
        "from engine.log import get_logger\n"
        "from pretrain.summary import sparkline\n"
        "run_command(lambda args: (print(sparkline([1, 2])), get_logger('x').info(sparkline([1, 2]))))\n"
    )
    result = run_module("command", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}", PYTHONIOENCODING=encoding)
    assert result.returncode == 0 and result.stdout == "??\n??\n", result.stderr


def test_a_crash_of_native_code_prints_where_it_was(tmp_path):
    script = "import ctypes\nfrom engine.cli import run_command\ndef read_null(args):\n    ctypes.string_at(0)\n"
    (tmp_path / "command.py").write_text(f"{script}run_command(read_null)\n")
    result = run_module("command", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert result.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in result.stderr and "in read_null" in result.stderr, result.stderr


def test_an_interrupt_that_a_library_makes_another_error_is_one(tmp_path):
    (tmp_path / "command.py").write_text(
        "import os, signal\n"
        "from engine.cli import run_command\n"
        "def read(args):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ValueError('could not determine the shape') from None\n"
        "run_command(read)\n"
    )
    result = run_module("command", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert result.returncode == 130 and result.stderr.strip() == "Stopped. Rerun the command to resume.", result.stderr


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number), "out/x")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failure(errno.ENOSPC), "out/x: the disk is full"),
        (failure(errno.EDQUOT), "out/x: the disk is full (Disk quota exceeded)"),
        (failure(errno.EROFS), "out/x: cannot be used (Read-only file system)"),
        (failure(errno.EACCES), "out/x: cannot be used (Permission denied)"),
        (SafetensorError("Error while serializing: I/O error: (os error 28)"), "out: the disk is full"),
        (SafetensorError("I/O error: (os error 30) at path"), "out: cannot be used (Read-only file system)"),
    ],
)
def test_a_disk_that_cannot_be_used_is_reported_in_one_line(error, expected, capsys, monkeypatch):
    def fail(args: list[str]) -> None:
        raise error

    (line,) = error_lines(fail, [], capsys, monkeypatch)
    assert line.startswith(expected)


def test_numbers_that_need_too_much_memory_are_reported_in_one_line(capsys, monkeypatch):
    def fail(args: list[str]) -> None:
        raise MemoryError("Unable to allocate 745. GiB for an array")

    (line,) = error_lines(fail, [], capsys, monkeypatch)
    assert line.startswith("out of memory (Unable to allocate 745. GiB for an array); choose smaller numbers")
