"""Files and folders that are whole or absent: written beside, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import DataError, first_line


@contextmanager
def atomic_folder(folder: Path, keep_existing: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """A folder beside `folder` to fill, which takes its place when all went well; an older one is replaced.

    keep_existing: says of a folder that stands there by then, another process's say, that it stays and this one is thrown away.
    """
    # The process in the name keeps two that write the same folder apart; what dead ones left is cleared away.
    for left in [
        *folder.parent.glob(f".{folder.name}.unfinished-*"),
        *folder.parent.glob(f".{folder.name}.replaced-*"),
    ]:
        if not is_other_process_running(int(left.name.rsplit("-", 1)[1])):
            shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
    except BaseException:
        shutil.rmtree(beside)
        raise
    for path in sorted(beside.rglob("*")) + [beside]:
        fsync(path)
    old = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    while True:
        try:
            beside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if keep_existing(folder):
                shutil.rmtree(beside)
                return
            # Another process may have moved it away first: then there is nothing to move. Or put its own there since.
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                folder.rename(old)
            continue
        fsync(folder.parent)  # or a power cut may take back the renaming
        shutil.rmtree(old, ignore_errors=True)
        return


def fsync(path: Path) -> None:
    """Have the disk hold what was written of a file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make `folder` hold what `fill(path)` writes, whole or not at all."""
    with atomic_folder(folder) as beside:
        fill(beside)
    return folder


def is_other_process_running(pid: int) -> bool:
    """Whether a process of that number is alive, other than this one."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return pid != os.getpid()


def write_text(path: Path, content: str) -> None:
    """A text file, whole or absent; of several processes that write it at once, one's."""
    beside = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        beside.write_text(content, encoding="utf-8")
        fsync(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_json(path: Path, content: dict) -> None:
    """JSON, whole or absent."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """What `write_json` wrote. Raises DataError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not keys and values")
    return content


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: OSError) -> bool:
    """Whether a file could not be written for want of room: on the disk, in a quota, or under a limit on file sizes."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
