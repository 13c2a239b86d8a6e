"""Atomic writes of files and folders: under a temporary name, synced, then renamed."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import DataError, first_line


@contextmanager
def atomic_folder(folder: Path, keep_existing: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` on success, unless `keep_existing(folder)` is true by then."""
    remove_leftovers(folder)
    temp, descriptor = make_locked_folder(folder)
    try:
        yield temp
        for path in [*sorted(temp.rglob("*")), temp]:
            fsync(path)
        replace_folder(folder, temp, keep_existing)
        fsync(folder.parent)  # otherwise a power failure could undo the rename
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Return a random name next to `path`; a process number is not unique among containers that share a disk."""
    return path.with_name(f".{path.name}.unfinished-{secrets.token_hex(8)}")


def make_locked_folder(folder: Path) -> tuple[Path, int]:
    """Make a temporary folder for `folder`; return it and the open descriptor that locks it until its owner ends."""
    while True:
        temp = temporary_path(folder)
        temp.mkdir(parents=True)
        with suppress(FileNotFoundError):  # until it is locked, it looks like a leftover, which others remove
            descriptor = os.open(temp, os.O_RDONLY)
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if temp.is_dir():
                return temp, descriptor
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished folders of writers of `folder` that have ended, which hold no lock anymore."""
    name = glob.escape(folder.name)
    # The second is of an unfinished folder that was itself to be replaced atomically.
    patterns = (f".{name}.unfinished-*/", f"..{name}.unfinished-*/")
    for leftover in [path for pattern in patterns for path in folder.parent.glob(pattern)]:
        with suppress(OSError):  # removed by now, locked by its writer, or no locks on this file system
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)


def replace_folder(folder: Path, temp: Path, keep_existing: Callable[[Path], bool]) -> None:
    """Rename `temp` to `folder`. A folder that is there already is removed, unless `keep_existing` of it is true."""
    old = temporary_path(folder)
    while True:
        try:
            temp.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if keep_existing(folder):
                return
            # Another process may have moved the folder away already, or may replace it again before the next attempt.
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                folder.rename(old)
            continue
        shutil.rmtree(old, ignore_errors=True)
        return


def fsync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Write `folder` atomically by `fill(path)`."""
    with atomic_folder(folder) as temp:
        fill(temp)
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file that then replaces `path`; nothing is left of it after an error."""
    temp = temporary_path(path)
    try:
        yield temp
        fsync(temp)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    fsync(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temp:
        temp.write_text(content, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises DataError for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode("utf-8")  # raises ValueError for half of a surrogate pair
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must contain keys and values, not a {type(content).__name__}")
    return content


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: Exception) -> bool:
    """Return whether a write failed for lack of space, by the disk, a quota or a file size limit."""
    return find_errno(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def find_errno(error: Exception) -> int | None:
    """Return the number of the system's error behind an exception, which Rust libraries give in its text only."""
    match = re.search(r"os error (\d+)", str(error))
    return getattr(error, "errno", None) or (int(match[1]) if match else None)


def describe_os_error(error: Exception) -> str | None:
    """Describe, in a line, a file or disk that cannot be used; None for any other error."""
    number = find_errno(error)
    # Of a rename, the second name is the user's; the first is temporary.
    file = getattr(error, "filename2", None) or getattr(error, "filename", None) or "out"
    if is_disk_full(error):
        return f"{file}: the disk is full ({os.strerror(number)}). Free some space and rerun the command to resume."
    unusable = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
    if number in unusable:
        return f"{file}: cannot be used ({os.strerror(number)})"
    return None
