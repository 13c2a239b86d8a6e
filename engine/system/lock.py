"""A lock that lets one process at a time write a folder; the kernel releases it when its owner ends in any way."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from engine.errors import ConfigError


def acquire(folder: Path) -> TextIO:
    """Lock a folder while the returned file is open, if the file system can. Raises ConfigError naming the owner."""
    file = open(folder / ".lock", "a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = describe_owner(file.read())
        raise ConfigError(f"{folder}: in use by {owner}.\nWait, or choose another name: run={folder.name}-2.") from None
    except OSError:
        return file
    file.truncate(0)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(owner))
    file.flush()
    return file


def describe_owner(lock_text: str) -> str:
    """Describe the owner of a lock from the lock file's content."""
    try:
        return "process {pid} on {host} (since {since})".format(**json.loads(lock_text))
    except (ValueError, KeyError, TypeError):
        return "another process"
