"""Write checkpoints during training: tensors are copied at once, and a thread writes the copies to disk."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.errors import DataError
from engine.files import fsync, is_disk_full


class AsyncSaver:
    """Writes checkpoints one at a time; waits for the last on exit. checkpoint_seconds: time training has waited."""

    def __init__(self, folder: Path, keep_checkpoints: int, checkpoint_seconds: float):
        self.folder, self.keep_checkpoints, self.checkpoint_seconds = folder, keep_checkpoints, checkpoint_seconds
        self.executor, self.pending = ThreadPoolExecutor(1), None

    def __enter__(self) -> AsyncSaver:
        return self

    def __exit__(self, exc_type: type | None, *_) -> None:
        try:
            self.wait()
        except Exception:
            if exc_type is None:  # otherwise report the error that ended training
                raise
        finally:
            self.executor.shutdown()

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict, averaged_weights: dict[str, Tensor]
    ) -> None:
        """Start writing `step-XXXXXX/` for `state["step"]`; then remove old checkpoints."""
        others = {checkpoint.OPTIMIZER_NAME: checkpoint.optimizer_state(module, optimizer)}
        others |= {checkpoint.AVERAGE_NAME: averaged_weights} if averaged_weights else {}
        self._submit(self.checkpoint_path(state), state, module, others)

    def checkpoint_path(self, state: dict) -> Path:
        """Return the folder for the checkpoint of a state."""
        return self.folder / f"step-{state['step']:06d}"

    def save_best(self, module: nn.Module, state: dict) -> None:
        """Start writing `best/`."""
        self._submit(self.folder / "best", state, module, {})

    def _submit(self, folder: Path, state: dict, module: nn.Module, others: dict[str, dict[str, Tensor]]) -> None:
        """Copy the tensors and submit the write. Raises DataError if the previous write failed."""
        start = time.perf_counter()
        self.raise_if_failed()
        files = {checkpoint.WEIGHTS_NAME: checkpoint.model_state(module), **others}
        copies, state = {name: checkpoint.copy_to_cpu(tensors) for name, tensors in files.items()}, dict(state)
        self.wait()  # so that at most two copies are in memory
        self.pending = self.executor.submit(self._write, folder, copies, state)
        self.checkpoint_seconds += time.perf_counter() - start

    def _write(self, folder: Path, tensors_by_file: dict[str, dict[str, Tensor]], state: dict) -> None:
        """Write a checkpoint in the thread."""
        self.sync_log()
        try:
            checkpoint.save(folder, tensors_by_file, state)
        except Exception as error:
            if not is_disk_full(error):
                raise
            size = sum(tensor.nbytes for tensors in tensors_by_file.values() for tensor in tensors.values())
            saved = checkpoint.list_checkpoints(self.folder)
            raise DataError(
                f"{folder}: the disk is full: {size / 1e6:,.1f} MB to save, {free_disk(self.folder) / 1e6:,.1f} free."
                f" {f'The newest checkpoint is {saved[-1].name}' if saved else 'There is no checkpoint yet'}.\n"
                "Free some space and rerun the command to resume."
            ) from None
        self.prune()

    def sync_log(self) -> None:
        """Flush the log to disk, because a checkpoint must not outlive the log lines before it."""
        log = self.folder / "log.jsonl"
        if log.is_file():
            fsync(log)

    def prune(self) -> None:
        """Remove all but the newest `keep_checkpoints`."""
        for old in checkpoint.list_checkpoints(self.folder)[: -self.keep_checkpoints]:
            shutil.rmtree(old)

    def raise_if_failed(self) -> None:
        """Raise DataError if the pending write has failed, without waiting for it."""
        if self.pending and self.pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the pending write. Raises DataError if it failed."""
        pending: Future | None = self.pending
        self.pending = None
        if pending:
            pending.result()


def free_disk(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
