"""The lock of a folder: one process at a time, reported with its owner, released when the owner ends."""

import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys

import filelock
import pytest
from helpers import ROOT

from engine.errors import ConfigError
from engine.system.lock import acquire

HOLD_AND_FORK = """
import os, signal, sys
from pathlib import Path
from engine.system.lock import acquire
lock = acquire(Path(sys.argv[1]))
if not os.fork():
    print(os.getpid(), flush=True)  # by the child, which has then left the lock to its parent
signal.pause()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.fixture
def owner(folder):
    """Start another process that locks the folder and has a forked child, which outlives it."""
    command = [sys.executable, "-c", HOLD_AND_FORK, folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(process.stdout.readline())
    yield process
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()


def is_free(folder) -> bool:
    """Return whether another process could lock the folder."""
    try:
        with filelock.FileLock(folder / ".lock", blocking=False):
            return True
    except filelock.Timeout:
        return False


def test_a_locked_folder_is_rejected_with_its_owner_until_the_owner_is_killed(folder, owner):
    content = json.loads((folder / ".lock").read_text())
    assert content == {"pid": owner.pid, "host": socket.gethostname(), "since": content["since"]}
    expected = (
        f"{folder}: in use by process {owner.pid} on {content['host']} (since {content['since']}).\n"
        "Wait, or choose another name: run=mine-2."
    )
    with pytest.raises(ConfigError) as error:
        acquire(folder)
    assert str(error.value) == expected
    assert json.loads((folder / ".lock").read_text()) == content, "a rejected process leaves the owner's lines"
    owner.kill()
    owner.wait()
    assert acquire(folder).is_locked and json.loads((folder / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_file_without_an_owner_names_another_process(folder, owner):
    (folder / ".lock").write_text("")
    with pytest.raises(ConfigError, match="in use by another process"):
        acquire(folder)


def test_a_process_can_lock_a_folder_again_and_releases_it_with_the_last_lock(folder):
    locks = [acquire(folder), acquire(folder)]
    assert not is_free(folder)
    locks.pop()
    gc.collect()
    assert not is_free(folder)
    locks.pop()
    gc.collect()
    assert is_free(folder)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without_one(folder, monkeypatch, code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("filelock._unix.lock_fd_nonblocking", fail)
    lock = acquire(folder)
    assert not lock.is_locked
    lock.release()


def test_a_folder_that_cannot_be_written_is_an_error(folder):
    with pytest.raises(OSError, match="No such file"):
        acquire(folder / "missing")


def test_a_link_in_the_place_of_the_lock_is_not_followed(folder):
    (folder.parent / "letters").write_text("dear")
    (folder / ".lock").symlink_to(folder.parent / "letters")
    with pytest.raises(OSError, match="symbolic link"):
        acquire(folder)
    assert (folder.parent / "letters").read_text() == "dear"
