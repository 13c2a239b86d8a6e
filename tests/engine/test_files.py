"""Atomic writes of files and folders, also by concurrent processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import environment

from engine.files import atomic_folder, write_text

# Writes the same folder repeatedly; at any moment it must contain both files of one process.
WRITER = """
import sys
from pathlib import Path
from engine.files import atomic_folder
folder, name, keep = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep"
for number in range(60):
    with atomic_folder(folder, keep_existing=lambda path: keep and (path / "a").is_file()) as temp:
        for file in "ab":
            (temp / file).write_text(f"{name} {number}")
"""


@pytest.mark.parametrize("keep", ["keep", "replace"])
def test_concurrent_writes_of_a_folder(tmp_path, keep):
    folder = tmp_path / "made"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), name, keep],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    for writer in writers:
        stderr = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, stderr
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (folder / "a").read_text() == (folder / "b").read_text()
    number = int((folder / "a").read_text().split()[1])
    assert number == (0 if keep == "keep" else 59)


TEXT_WRITER = """
import sys
from pathlib import Path
from engine.files import write_text
for number in range(300):
    write_text(Path(sys.argv[1]), sys.argv[2] * 1000)
"""


def test_concurrent_writes_of_a_file(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", TEXT_WRITER, str(tmp_path / "note"), name],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        stderr = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, stderr
    assert (tmp_path / "note").read_text() in ("a" * 1000, "b" * 1000) and len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    write_text(tmp_path / "note", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "note", "\ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("note", "old")]


def test_keep_existing_keeps_the_folder(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "made", keep_existing=lambda path: (path / "a").is_file()) as temp:
            (temp / "a").write_text(text)
    assert (tmp_path / "made/a").read_text() == "first"
    with atomic_folder(tmp_path / "made") as temp:
        (temp / "a").write_text("third")
    assert (tmp_path / "made/a").read_text() == "third"


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for kind in ("unfinished", "replaced"):
        (tmp_path / f".made.{kind}-{int(dead.stdout)}").mkdir()
    with atomic_folder(tmp_path / "made"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
