"""Derived data, named by a fingerprint of what it is made from: `out/KIND/NAME-FINGERPRINT/`.

The manifest is written last and the folder renamed whole, so nothing is computed twice and nothing half-written is read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from engine.errors import Leave
from engine.files import file_hash, read_json, whole, write_json, write_text

OUT = Path("out")


def fingerprint(inputs: object) -> str:
    """Twelve hexadecimal digits that change whenever `inputs` (anything JSON can hold) do."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def remembered_hash(path: Path) -> str:
    """`file_hash`, read once for each size and time of change of a file."""
    path, known = path.resolve(), OUT / "cache" / "hashes"
    status = path.stat()
    note = known / fingerprint([str(path), status.st_size, status.st_mtime_ns, status.st_ino])
    if not note.is_file():
        known.mkdir(parents=True, exist_ok=True)
        write_text(note, file_hash(path))
    return note.read_text()


LOOKING: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def looking(only: bool = True) -> Iterator[None]:
    """Within it nothing is derived: Leave is raised where something would be."""
    before = LOOKING.set(only)
    try:
        yield
    finally:
        LOOKING.reset(before)


def to_be_made(folder: Path) -> None:
    """Called before something is derived. Raises Leave when we are only looking."""
    if LOOKING.get():
        raise Leave(f"text     all that is named is there; {folder} is still to be made from it, and then the rest can be"
                    " looked at")


def derive(kind: str, name: str, inputs: dict, make: Callable[[Path], dict], quiet: bool = False) -> Path:
    """The folder that `make(folder)` fills and describes (its manifest), made only if it is not there yet."""
    started, there = time.time(), is_made(place(kind, name, inputs))
    folder, = derive_together(kind, [(name, inputs)], lambda which, folders: [make(folders[0])])
    if not quiet and not there:
        print(f"made {folder} in {time.time() - started:.0f} s", flush=True)
    return folder


def place(kind: str, name: str, inputs: dict) -> Path:
    """The folder that `derive` makes."""
    return OUT / kind / f"{name}-{fingerprint(inputs)}"


def is_made(folder: Path) -> bool:
    """Whether a derived folder is finished."""
    return (folder / "manifest.json").is_file()


def derive_together(kind: str, wanted: list[tuple[str, dict]],
                    make: Callable[[list[int], list[Path]], list[dict]]) -> list[Path]:
    """As `derive` for several (name, inputs) at once: `make(which, folders)` fills those that are not there yet."""
    folders = [place(kind, *each) for each in wanted]
    missing = [number for number, folder in enumerate(folders) if not is_made(folder)]
    if missing:
        to_be_made(folders[missing[0]])
        with ExitStack() as stack:
            beside = [stack.enter_context(whole(folders[number], keep=is_made)) for number in missing]
            for number, path, told in zip(missing, beside, make(missing, beside)):
                write_json(path / "manifest.json", {**told, "inputs": wanted[number][1]})
    return folders


def manifest(folder: Path) -> dict:
    """What a derived folder says of itself. Raises DataError for one that says nothing readable."""
    return read_json(folder / "manifest.json")
