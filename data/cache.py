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

from engine.errors import CommandExit
from engine.files import atomic_folder, file_hash, read_json, write_json, write_text

OUTPUT_DIR = Path("out")


def fingerprint(inputs: object) -> str:
    """Twelve hexadecimal digits that change whenever `inputs` (anything JSON can hold) do."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def cached_file_hash(path: Path) -> str:
    """`file_hash`, read once for each size and time of change of a file."""
    path, known = path.resolve(), OUTPUT_DIR / "cache" / "hashes"
    status = path.stat()
    note = known / fingerprint([str(path), status.st_size, status.st_mtime_ns, status.st_ino])
    if not note.is_file():
        known.mkdir(parents=True, exist_ok=True)
        write_text(note, file_hash(path))
    return note.read_text()


DRY_RUN: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def dry_run(enabled: bool = True) -> Iterator[None]:
    """Within it nothing is derived: Leave is raised where something would be."""
    before = DRY_RUN.set(enabled)
    try:
        yield
    finally:
        DRY_RUN.reset(before)


def stop_if_dry_run(folder: Path) -> None:
    """Called before something is derived. Raises Leave when we are only looking."""
    if DRY_RUN.get():
        raise CommandExit(
            f"text     all that is named is there; {folder} is still to be made from it, and then the rest can be"
            " looked at"
        )


def get_or_build(kind: str, name: str, inputs: dict, build: Callable[[Path], dict], quiet: bool = False) -> Path:
    """The folder that `make(folder)` fills and describes (its manifest), made only if it is not there yet."""
    started, there = time.time(), is_cached(cache_path(kind, name, inputs))
    (folder,) = get_or_build_many(kind, [(name, inputs)], lambda which, folders: [build(folders[0])])
    if not quiet and not there:
        print(f"made {folder} in {time.time() - started:.0f} s", flush=True)
    return folder


def cache_path(kind: str, name: str, inputs: dict) -> Path:
    """The folder that `get_or_build` makes."""
    return OUTPUT_DIR / kind / f"{name}-{fingerprint(inputs)}"


def is_cached(folder: Path) -> bool:
    """Whether a derived folder is finished."""
    return (folder / "manifest.json").is_file()


def get_or_build_many(
    kind: str, requests: list[tuple[str, dict]], build: Callable[[list[int], list[Path]], list[dict]]
) -> list[Path]:
    """As `get_or_build` for several (name, inputs) at once: `make(which, folders)` fills those that are not there yet."""
    folders = [cache_path(kind, *each) for each in requests]
    missing = [number for number, folder in enumerate(folders) if not is_cached(folder)]
    if missing:
        stop_if_dry_run(folders[missing[0]])
        with ExitStack() as stack:
            beside = [
                stack.enter_context(atomic_folder(folders[number], keep_existing=is_cached)) for number in missing
            ]
            for number, path, told in zip(missing, beside, build(missing, beside)):
                write_json(path / "manifest.json", {**told, "inputs": requests[number][1]})
    return folders


def read_manifest(folder: Path) -> dict:
    """What a derived folder says of itself. Raises DataError for one that says nothing readable."""
    return read_json(folder / "manifest.json")
