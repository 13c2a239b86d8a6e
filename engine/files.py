"""Files and folders that are whole or absent: written beside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(folder: Path, keep: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """A folder beside `folder` to fill, which takes its place when all went well; an older one is replaced.

    keep: says of a folder that stands there by then, another process's say, that it stays and this one is thrown away.
    """
    # The process in the name keeps two that write the same folder apart; what dead ones left is cleared away.
    for left in [*folder.parent.glob(f".{folder.name}.unfinished-*"), *folder.parent.glob(f".{folder.name}.replaced-*")]:
        if not is_running(int(left.name.rsplit("-", 1)[1])):
            shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
    except BaseException:
        shutil.rmtree(beside)
        raise
    for path in sorted(beside.rglob("*")) + [beside]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    while True:
        try:
            beside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if keep(folder):
                shutil.rmtree(beside)
                return
            # Another process may have moved it away first: then there is nothing to move. Or put its own there since.
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                folder.rename(old)
            continue
        shutil.rmtree(old, ignore_errors=True)
        return


def write_whole(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make `folder` hold what `fill(path)` writes, whole or not at all."""
    with whole(folder) as beside:
        fill(beside)
    return folder


def is_running(process: int) -> bool:
    """Whether a process of that number is alive, other than this one."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return process != os.getpid()


def write_text(path: Path, content: str) -> None:
    """A text file, whole or absent."""
    beside = path.with_name(f".{path.name}.unfinished")
    beside.write_text(content, encoding="utf-8")
    os.replace(beside, path)


def write_json(path: Path, content: dict) -> None:
    """JSON, whole or absent."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
