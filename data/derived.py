"""Derived data, named by a fingerprint of what it is made from: `out/KIND/NAME-FINGERPRINT/`.

The manifest is written last and the folder renamed whole, so nothing is computed twice and nothing half-written is read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from engine.files import write_whole

OUT = Path("out")


def fingerprint(inputs: object) -> str:
    """Twelve hexadecimal digits that change whenever `inputs` (anything JSON can hold) do."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive(kind: str, name: str, inputs: dict, make: Callable[[Path], dict]) -> Path:
    """The folder that `make(folder)` fills and describes (its manifest), made only if it is not there yet."""
    folder = OUT / kind / f"{name}-{fingerprint(inputs)}"
    if not (folder / "manifest.json").is_file():
        started = time.time()

        def fill(beside: Path) -> None:
            manifest = {**make(beside), "inputs": inputs}
            (beside / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        write_whole(folder, fill)
        print(f"made {folder} in {time.time() - started:.0f} s", flush=True)
    return folder


def manifest(folder: Path) -> dict:
    """What a derived folder says of itself."""
    return json.loads((folder / "manifest.json").read_text())
