"""Results of steps, one file each, named by a fingerprint of what they depend on.

A stopped command goes on with those that are there.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.cache import fingerprint
from engine.files import atomic_path
from engine.log import warn_once

VERSION = 1


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in a file."""
    with np.load(path, allow_pickle=False) as saved:
        return {key: saved[key] for key in saved.files}


class Steps:
    """The files of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.used: set[Path] = set()

    def get(self, name: str, inputs: list, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of a step, computed if there are none yet, or only damaged ones."""
        path = self.folder / f"{name}-{fingerprint([VERSION, name, inputs])}.npz"
        self.used.add(path)
        if path.is_file():
            try:
                return load_arrays(path)
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
                warn_once(f"note: {path} is damaged; this step is repeated")
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = compute()
        with atomic_path(path) as temp, open(temp, "wb") as file:
            np.savez(file, **arrays)
        return load_arrays(path)

    def remove_others(self) -> None:
        """Remove the files of other inputs or settings."""
        for path in self.folder.glob("*"):
            if path not in self.used:
                path.unlink()
