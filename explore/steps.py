"""Results of steps, one file each, named by a fingerprint of what they depend on.

A stopped command goes on with those that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.cache import fingerprint
from engine.files import atomic_path

VERSION = 1


class Steps:
    """The files of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.used: set[Path] = set()

    def get(self, name: str, inputs: list, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of a step, computed if there are none yet."""
        path = self.folder / f"{name}-{fingerprint([VERSION, name, inputs])}.npz"
        self.used.add(path)
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            arrays = compute()
            with atomic_path(path) as temp, open(temp, "wb") as file:
                np.savez(file, **arrays)
        with np.load(path) as saved:
            return {key: saved[key] for key in saved.files}

    def remove_others(self) -> None:
        """Remove the files of other inputs or settings."""
        for path in self.folder.glob("*"):
            if path not in self.used:
                path.unlink()
