"""Atomic writes of files and folders, also by concurrent processes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from helpers import environment

from engine.files import atomic_folder, describe_os_error, write_text

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


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_one_line_with_the_name(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for write, name, reason in (
        (lambda: write_text(tmp_path / "folder", "x"), "folder", "Is a directory"),
        (lambda: write_text(tmp_path / "file/x", "x"), "file/.x", "Not a directory"),
        (lambda: (tmp_path / "file").mkdir(exist_ok=True), "file", "File exists"),
    ):
        with pytest.raises(OSError) as caught:
            write()
        line = describe_os_error(caught.value)
        assert line.startswith(f"{tmp_path}/{name}") and line.endswith(f": cannot be used ({reason})")


def test_keep_existing_keeps_the_folder(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "made", keep_existing=lambda path: (path / "a").is_file()) as temp:
            (temp / "a").write_text(text)
    assert (tmp_path / "made/a").read_text() == "first"
    with atomic_folder(tmp_path / "made") as temp:
        (temp / "a").write_text("third")
    assert (tmp_path / "made/a").read_text() == "third"


def test_leftovers_without_a_writer_are_removed_and_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".made.unfinished-1").mkdir()
    (tmp_path / "..made.unfinished-1.unfinished-2").mkdir()
    (tmp_path / ".made.unfinished-2").symlink_to(tmp_path / "elsewhere")
    with atomic_folder(tmp_path / "made"):
        assert not (tmp_path / ".made.unfinished-1").exists()
        assert not (tmp_path / "..made.unfinished-1.unfinished-2").exists()
    assert (tmp_path / "elsewhere").is_dir()


# Writes the folder in two halves, with a pause between them for another writer.
PAUSING_WRITER = """
import os, sys
from pathlib import Path
from engine.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as temp:
    (temp / "a").write_text("first")
    print(os.getpid(), flush=True)
    input()
    (temp / "b").write_text("first")
"""


@pytest.mark.parametrize("prefix", [(), ("unshare", "--pid", "--fork", "--mount-proc")], ids=["process", "container"])
def test_the_unfinished_folder_of_a_running_writer_is_kept(tmp_path, prefix):
    if prefix and (not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode):
        pytest.skip("no process namespaces here")
    command = [*prefix, sys.executable, "-c", PAUSING_WRITER, str(tmp_path / "made")]
    writers = [
        subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    numbers = {writer.stdout.readline() for writer in writers}
    assert len(numbers) == (1 if prefix else 2)
    with atomic_folder(tmp_path / "made"):
        assert len(list(tmp_path.glob(".made.unfinished-*"))) == 3
    for writer in writers:
        writer.communicate("\n", timeout=60)
        assert writer.returncode == 0
        assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
