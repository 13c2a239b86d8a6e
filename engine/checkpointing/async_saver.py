"""Checkpoints written while training goes on: tensors are copied at once, and a thread brings the copies to the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.errors import DataError
from engine.files import fsync, is_disk_full


class AsyncSaver:
    """Writes a run's checkpoints one after another: `with Saver(folder, keep) as saver:` waits for the last at the end.

    keep: how many there are to be. `seconds`, counted on from where it was, is what training has waited for it all.
    """

    def __init__(self, folder: Path, keep_checkpoints: int, checkpoint_seconds: float):
        self.folder, self.keep_checkpoints, self.checkpoint_seconds = folder, keep_checkpoints, checkpoint_seconds
        self.executor, self.pending = ThreadPoolExecutor(1), None

    def __enter__(self) -> AsyncSaver:
        return self

    def __exit__(self, exc_type: type | None, *_) -> None:
        try:
            self.wait()
        except Exception:
            if exc_type is None:  # otherwise what ended the training is what is told
                raise
        finally:
            self.executor.shutdown()

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict, averaged_weights: dict[str, Tensor]
    ) -> None:
        """Begin to write `step-XXXXXX/` for `state["step"]`; afterwards all but the newest `keep` go."""
        self._submit(
            self.checkpoint_path(state),
            state,
            lambda: {
                checkpoint.WEIGHTS_NAME: checkpoint.model_state(module),
                checkpoint.OPTIMIZER_NAME: checkpoint.optimizer_state(module, optimizer),
                **({checkpoint.AVERAGE_NAME: averaged_weights} if averaged_weights else {}),
            },
        )

    def checkpoint_path(self, state: dict) -> Path:
        """Where the checkpoint of a state goes."""
        return self.folder / f"step-{state['step']:06d}"

    def save_best(self, module: nn.Module, state: dict) -> None:
        """Begin to write `best/`, apart from the others."""
        self._submit(self.folder / "best", state, lambda: {checkpoint.WEIGHTS_NAME: checkpoint.model_state(module)})

    def _submit(self, folder: Path, state: dict, get_tensors: Callable[[], dict[str, dict[str, Tensor]]]) -> None:
        """Copy, and have the copies written once what is under way is done. Raises DataError when that failed."""
        began = time.perf_counter()
        self.raise_if_failed()
        files, state = {name: checkpoint.copy_to_cpu(each) for name, each in get_tensors().items()}, dict(state)
        self.wait()  # one in memory beside the one that is written
        self.pending = self.executor.submit(self._write, folder, files, state)
        self.checkpoint_seconds += time.perf_counter() - began

    def _write(self, folder: Path, tensors_by_file: dict[str, dict[str, Tensor]], state: dict) -> None:
        """The thread's part."""
        log = self.folder / "log.jsonl"
        if log.is_file():
            fsync(log)  # a checkpoint never outlives the lines it follows
        try:
            checkpoint.save(folder, tensors_by_file, state)
        except OSError as error:
            if not is_disk_full(error):
                raise
            size = sum(tensor.nbytes for each in tensors_by_file.values() for tensor in each.values())
            kept = checkpoint.list_checkpoints(self.folder)
            raise DataError(
                f"{folder}: the disk is full: {size / 1e6:,.1f} MB were to be saved, and {free_disk(self.folder) / 1e6:,.1f} MB are"
                f" left. {f'The newest checkpoint is {kept[-1].name}' if kept else 'There is no checkpoint yet'}.\n"
                "Make room; the same command goes on from there."
            ) from None
        self.prune()

    def prune(self) -> None:
        """Drop all checkpoints but the newest `keep`."""
        for old in checkpoint.list_checkpoints(self.folder)[: -self.keep_checkpoints]:
            shutil.rmtree(old)

    def raise_if_failed(self) -> None:
        """Raises DataError when what is under way has failed; does not wait for it."""
        if self.pending and self.pending.done():
            self.wait()

    def wait(self) -> None:
        """Until what is under way is on the disk. Raises DataError when it failed."""
        under_way: Future | None = self.pending
        self.pending = None
        if under_way:
            under_way.result()


def free_disk(folder: Path) -> int:
    """Bytes that can still be written where the folder is, or is to be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
