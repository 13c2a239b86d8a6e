"""Checkpoints written while training goes on: tensors are copied at once, and a thread brings the copies to the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import checkpoint
from engine.errors import DataError
from engine.files import is_full, sync


class Saver:
    """Writes a run's checkpoints one after another: `with Saver(folder, keep) as saver:` waits for the last at the end.

    keep: how many there are to be. `seconds`, counted on from where it was, is what training has waited for it all.
    """

    def __init__(self, folder: Path, keep: int, seconds: float):
        self.folder, self.keep, self.seconds = folder, keep, seconds
        self.thread, self.under_way = ThreadPoolExecutor(1), None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # otherwise what ended the training is what is told
                raise
        finally:
            self.thread.shutdown()

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict, average: dict[str, Tensor]) -> None:
        """Begin to write `step-XXXXXX/` for `state["step"]`; afterwards all but the newest `keep` go."""
        self.begin(self.place(state), state, lambda: {
            checkpoint.WEIGHTS: checkpoint.weights(module),
            checkpoint.OPTIMIZER: checkpoint.optimizer_state(module, optimizer),
            **({checkpoint.AVERAGE: average} if average else {})})

    def place(self, state: dict) -> Path:
        """Where the checkpoint of a state goes."""
        return self.folder / f"step-{state['step']:06d}"

    def best(self, module: nn.Module, state: dict) -> None:
        """Begin to write `best/`, apart from the others."""
        self.begin(self.folder / "best", state, lambda: {checkpoint.WEIGHTS: checkpoint.weights(module)})

    def begin(self, folder: Path, state: dict, tensors: Callable[[], dict[str, dict[str, Tensor]]]) -> None:
        """Copy, and have the copies written once what is under way is done. Raises DataError when that failed."""
        began = time.perf_counter()
        self.look()
        files, state = {name: checkpoint.copied(each) for name, each in tensors().items()}, dict(state)
        self.wait()  # one in memory beside the one that is written
        self.under_way = self.thread.submit(self.write, folder, files, state)
        self.seconds += time.perf_counter() - began

    def write(self, folder: Path, files: dict[str, dict[str, Tensor]], state: dict) -> None:
        """The thread's part."""
        log = self.folder / "log.jsonl"
        if log.is_file():
            sync(log)  # a checkpoint never outlives the lines it follows
        try:
            checkpoint.write(folder, files, state)
        except OSError as error:
            if not is_full(error):
                raise
            size = sum(tensor.nbytes for each in files.values() for tensor in each.values())
            kept = checkpoint.steps_in(self.folder)
            raise DataError(
                f"{folder}: the disk is full: {size / 1e6:,.1f} MB were to be saved, and {free(self.folder) / 1e6:,.1f} MB are"
                f" left. {f'The newest checkpoint is {kept[-1].name}' if kept else 'There is no checkpoint yet'}.\n"
                "Make room; the same command goes on from there.") from None
        self.prune()

    def prune(self) -> None:
        """Drop all checkpoints but the newest `keep`."""
        for old in checkpoint.steps_in(self.folder)[:-self.keep]:
            shutil.rmtree(old)

    def look(self) -> None:
        """Raises DataError when what is under way has failed; does not wait for it."""
        if self.under_way and self.under_way.done():
            self.wait()

    def wait(self) -> None:
        """Until what is under way is on the disk. Raises DataError when it failed."""
        under_way: Future | None = self.under_way
        self.under_way = None
        if under_way:
            under_way.result()


def free(folder: Path) -> int:
    """Bytes that can still be written where the folder is, or is to be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
