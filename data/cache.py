"""Cache of derived data, named by a fingerprint of its inputs: `out/KIND/NAME-FINGERPRINT/`.

The manifest is written last and the folder renamed as a whole, so that only finished results are ever read.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from engine.errors import CommandExit
from engine.files import atomic_folder, file_hash, read_json, write_json, write_text
from engine.log import get_logger
from engine.sanitize import redact_credentials

logger = get_logger(__name__)

OUTPUT_DIR = Path("out")
DRY_RUN: ContextVar[bool] = ContextVar("dry_run", default=False)


def fingerprint(inputs: object) -> str:
    """Return twelve hexadecimal digits that identify `inputs` (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def cached_file_hash(path: Path) -> str:
    """Return `file_hash` of a file, cached until its size or modification time changes."""
    path, cache = path.resolve(), OUTPUT_DIR / "cache" / "hashes"
    status = path.stat()
    entry = cache / fingerprint([str(path), status.st_size, status.st_mtime_ns, status.st_ino])
    if not entry.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        write_text(entry, file_hash(path))
    return entry.read_text()


@contextmanager
def dry_run(enabled: bool = True) -> Iterator[None]:
    """Build nothing within this context: CommandExit is raised instead."""
    token = DRY_RUN.set(enabled)
    try:
        yield
    finally:
        DRY_RUN.reset(token)


def stop_if_dry_run(folder: Path) -> None:
    """Raise CommandExit in a dry run, where `folder` would be built."""
    if DRY_RUN.get():
        raise CommandExit(f"text     inputs found; {folder} is not built yet, so the remaining checks are skipped")


def get_or_build(kind: str, name: str, inputs: dict, build: Callable[[Path], dict], quiet: bool = False) -> Path:
    """Return the cached folder; `build(folder)` fills it and returns its manifest if it does not exist yet."""
    start, exists = time.monotonic(), is_cached(cache_path(kind, name, inputs))
    (folder,) = get_or_build_many(kind, [(name, inputs)], lambda missing, folders: [build(folders[0])])
    if not quiet and not exists:
        logger.info(f"built {folder} in {time.monotonic() - start:.0f} s")
    return folder


def cache_path(kind: str, name: str, inputs: dict) -> Path:
    """Return the folder that `get_or_build` uses."""
    return OUTPUT_DIR / kind / f"{name}-{fingerprint(inputs)}"


def is_cached(folder: Path) -> bool:
    """Return whether a derived folder is finished."""
    return (folder / "manifest.json").is_file()


def get_or_build_many(
    kind: str, requests: list[tuple[str, dict]], build: Callable[[list[int], list[Path]], list[dict]]
) -> list[Path]:
    """Return the folders of several (name, inputs); `build(indices, folders)` fills those that do not exist yet."""
    folders = [cache_path(kind, *request) for request in requests]
    missing = [index for index, folder in enumerate(folders) if not is_cached(folder)]
    if missing:
        stop_if_dry_run(folders[missing[0]])
        with ExitStack() as stack:
            parts = [stack.enter_context(atomic_folder(folders[index], keep_existing=is_cached)) for index in missing]
            for index, part, manifest in zip(missing, parts, build(missing, parts), strict=True):
                # An error of a file, which a manifest may hold, may name its address.
                content = redact_credentials({**manifest, "inputs": requests[index][1]})
                write_json(part / "manifest.json", content)
    return folders


def read_manifest(folder: Path) -> dict:
    """Read the manifest of a derived folder. Raises DataError when it cannot be read."""
    return read_json(folder / "manifest.json")
