"""One process at a time writes a folder: a lock that the kernel takes back when its holder ends, however that comes about."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from engine.errors import ConfigError


def acquire(folder: Path) -> TextIO:
    """Take the lock of a folder, held as long as the result is. Raises ConfigError naming the process that has it.

    A lock that a dead process left is free. Where the file system knows no locks there is none.
    """
    file = open(folder / ".lock", "a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise ConfigError(
            f"{folder}: {describe_owner(file.read())} is at work in it.\n"
            f"Wait for it, or give this one a name of its own, run={folder.name}-2."
        ) from None
    except OSError:
        return file
    file.truncate(0)
    file.write(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
    )
    file.flush()
    return file


def describe_owner(lock_text: str) -> str:
    """Who holds a lock, by what stands in it."""
    try:
        return "process {process} on {host}, since {since},".format(**json.loads(lock_text))
    except (ValueError, KeyError, TypeError):
        return "another process"
