"""A lock that lets one process at a time write a folder; the kernel releases it when its owner ends in any way."""

import json
import os
import socket
import time
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from engine.errors import ConfigError


def acquire(folder: Path, name: str = ".lock", locked: Path | None = None, way_out: str | None = None) -> BaseFileLock:
    """Lock a folder while the returned lock is referenced, if the file system can. Raises ConfigError with the owner.

    name: of the lock file. locked: what is locked instead of the whole folder. way_out: how to go on without it. The
    same process can lock a folder again.
    """
    path = folder / name
    # Raises OSError if the folder cannot be written. A link is not followed, since the file is overwritten below.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    lock = FileLock(path, blocking=False, thread_local=False, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        owner = describe_owner(path.read_text(encoding="utf-8"))
        way_out = way_out or f"choose another name: run={folder.name}-2"
        raise ConfigError(f"{locked or folder}: in use by {owner}.\nWait, or {way_out}.") from None
    except OSError:  # no locks on this file system
        return lock
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    path.write_text(json.dumps(owner), encoding="utf-8")
    return lock


def describe_owner(lock_text: str) -> str:
    """Describe the owner of a lock from the lock file's content."""
    try:
        return "process {pid} on {host} (since {since})".format(**json.loads(lock_text))
    except (ValueError, KeyError, TypeError):
        return "another process"
