"""Numbers gone bad: a step whose loss or gradient is not finite, or whose loss jumps, leaves the weights as they were.

Its batch is kept beside the weights that made it, `nan-step-12/`, and can be looked at again (`engine.training.replay`). What a
device says of a step is read one step later, before the next update, so that a GPU is never waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.errors import DataError
from engine.training.settings import Train

MAX_DUMPS = 3  # bad batches written to the disk, each with all weights; later ones are counted alone
EMA_DECAY = 0.98  # of the usual loss, for each step
MIN_EMA_WEIGHT = 0.4  # weight of what the usual loss follows from, from which on it is one: 25 steps


class LossGuard:
    """`judge` each step, `settle` it before the next update and whenever its figures are told."""

    def __init__(
        self,
        get_model_state: Callable[[], dict[str, Tensor]],
        get_micro_batches: Callable[[int], list],
        train: Train,
        saver: AsyncSaver,
        accelerator: Accelerator,
        state: dict,
    ):
        self.get_model_state, self.get_micro_batches, self.train, self.saver, self.accelerator = (
            get_model_state,
            get_micro_batches,
            train,
            saver,
            accelerator,
        )
        self.folder = saver.folder
        self.skipped_steps, self.consecutive_skips = state["skipped_steps"], state["consecutive_skips"]
        self.ema_loss = torch.tensor(state["ema_loss"], dtype=torch.float64, device=accelerator.device)
        self.stop_requested, self.pending_flags = False, None

    def check(self, step: int, loss: Tensor, grad_norm: Tensor, stop_requests: Tensor) -> Tensor:
        """Boolean scalar on the device: whether the update of `step` is to be left out.

        loss: float64 (2,), summed and counted over all processes; grad_norm: the gradient's; stop_requests: how many processes were asked
        to stop. All three are the same on every process, and so is the answer.
        """
        mean = loss[0] / loss[1].clamp(min=1)
        bad = ~(mean.isfinite() & grad_norm.isfinite())
        if self.train.max_loss_ratio:
            known = self.ema_loss[1] > MIN_EMA_WEIGHT
            bad = bad | (
                known & (mean > self.train.max_loss_ratio * self.ema_loss[0] / self.ema_loss[1].clamp(min=1e-9))
            )
            seen = torch.stack([mean, torch.ones_like(mean)])
            self.ema_loss = torch.where(bad, self.ema_loss, EMA_DECAY * self.ema_loss + (1 - EMA_DECAY) * seen)
        self.pending_flags = (
            step,
            torch.stack([bad, stop_requests > 0]).to("cpu", non_blocking=True),
            torch.cuda.Event() if bad.is_cuda else None,
        )
        if self.pending_flags[2]:
            self.pending_flags[2].record()
        return bad

    def resolve(self) -> None:
        """Take notice of the step judged last. Raises DataError when too many in a row were bad."""
        if self.pending_flags is None:
            return
        (step, flags, written), self.pending_flags = self.pending_flags, None
        if written:
            written.synchronize()
        bad, self.stop_requested = flags.tolist()
        if not bad:
            self.consecutive_skips = 0
            return
        self.skipped_steps, self.consecutive_skips = self.skipped_steps + 1, self.consecutive_skips + 1
        kept = self.dump_batch(step) if self.skipped_steps <= MAX_DUMPS else None
        if self.accelerator.is_main_process:
            print(
                f"step {step + 1}: the loss or its gradient is not finite, or far from the usual; the update is left out"
                + (f", its batch is in {kept}" if kept else ""),
                file=sys.stderr,
                flush=True,
            )
        if self.consecutive_skips >= self.train.max_skipped_steps:
            self.saver.wait()
            saved = checkpoint.list_checkpoints(self.folder)
            raise DataError(
                f"{self.folder}: {self.consecutive_skips} steps in a row without a usable gradient, the last of them step {step + 1}."
                f" {f'The last good checkpoint is {saved[-1].name}' if saved else 'No checkpoint had been saved'}.\n"
                f"Look at one again: the same command and train.replay=N, N from {self.folder}/nan-step-N. A smaller train.lr or"
                " train.precision=float32 may help, under a new name."
            )

    def dump_path(self, step: int) -> Path:
        """Where a bad batch goes; told in numbers from 1, as the log has them."""
        return self.folder / f"nan-step-{step + 1}"

    def dump_batch(self, step: int) -> Path:
        """Write the weights, and this process's micro-batches of the step."""
        folder = self.dump_path(step)
        folder.mkdir(parents=True, exist_ok=True)
        for number, batch in enumerate(self.get_micro_batches(step)):
            place = f"batch-{self.accelerator.process_index}-{number}.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in batch.inputs.items()}, folder / place)
        weights = self.get_model_state()
        if self.accelerator.is_main_process:
            save_file(checkpoint.copy_to_cpu(weights), folder / checkpoint.WEIGHTS_NAME)
        return folder

    def state_dict(self) -> dict:
        """What a checkpoint keeps of it, once `settle` has been called."""
        return {
            "skipped_steps": self.skipped_steps,
            "consecutive_skips": self.consecutive_skips,
            "ema_loss": self.ema_loss.tolist(),
        }
