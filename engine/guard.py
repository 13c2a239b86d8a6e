"""Numbers gone bad: a step whose loss or gradient is not finite, or whose loss jumps, leaves the weights as they were.

Its batch is kept beside the weights that made it, `nan-step-12/`, and can be looked at again (`engine.replay`). What a
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

from engine import checkpoint
from engine.config import Train
from engine.errors import DataError
from engine.saver import Saver

KEPT = 3  # bad batches written to the disk, each with all weights; later ones are counted alone
DECAY = 0.98  # of the usual loss, for each step
KNOWN = 0.4  # weight of what the usual loss follows from, from which on it is one: 25 steps


class Guard:
    """`judge` each step, `settle` it before the next update and whenever its figures are told."""

    def __init__(self, weights: Callable[[], dict[str, Tensor]], batches: Callable[[int], list], train: Train, saver: Saver,
                 accelerator: Accelerator, state: dict):
        self.weights, self.batches, self.train, self.saver, self.accelerator = weights, batches, train, saver, accelerator
        self.folder = saver.folder
        self.skipped, self.in_a_row = state["skipped"], state["skipped_in_a_row"]
        self.usual = torch.tensor(state["usual_loss"], dtype=torch.float64, device=accelerator.device)
        self.asked, self.told = False, None

    def judge(self, step: int, loss: Tensor, norm: Tensor, asked: Tensor) -> Tensor:
        """Boolean scalar on the device: whether the update of `step` is to be left out.

        loss: float64 (2,), summed and counted over all processes; norm: the gradient's; asked: how many processes were asked
        to stop. All three are the same on every process, and so is the answer.
        """
        mean = loss[0] / loss[1].clamp(min=1)
        bad = ~(mean.isfinite() & norm.isfinite())
        if self.train.spike:
            known = self.usual[1] > KNOWN
            bad = bad | (known & (mean > self.train.spike * self.usual[0] / self.usual[1].clamp(min=1e-9)))
            seen = torch.stack([mean, torch.ones_like(mean)])
            self.usual = torch.where(bad, self.usual, DECAY * self.usual + (1 - DECAY) * seen)
        self.told = step, torch.stack([bad, asked > 0]).to("cpu", non_blocking=True), torch.cuda.Event() if bad.is_cuda else None
        if self.told[2]:
            self.told[2].record()
        return bad

    def settle(self) -> None:
        """Take notice of the step judged last. Raises DataError when too many in a row were bad."""
        if self.told is None:
            return
        (step, flags, written), self.told = self.told, None
        if written:
            written.synchronize()
        bad, self.asked = flags.tolist()
        if not bad:
            self.in_a_row = 0
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        kept = self.keep(step) if self.skipped <= KEPT else None
        if self.accelerator.is_main_process:
            print(f"step {step + 1}: the loss or its gradient is not finite, or far from the usual; the update is left out"
                  + (f", its batch is in {kept}" if kept else ""), file=sys.stderr, flush=True)
        if self.in_a_row >= self.train.most_skipped:
            self.saver.wait()
            saved = checkpoint.steps_in(self.folder)
            raise DataError(
                f"{self.folder}: {self.in_a_row} steps in a row without a usable gradient, the last of them step {step + 1}."
                f" {f'The last good checkpoint is {saved[-1].name}' if saved else 'No checkpoint had been saved'}.\n"
                f"Look at one again: the same command and train.replay=N, N from {self.folder}/nan-step-N. A smaller train.lr or"
                " train.precision=float32 may help, under a new name.")

    def kept_at(self, step: int) -> Path:
        """Where a bad batch goes; told in numbers from 1, as the log has them."""
        return self.folder / f"nan-step-{step + 1}"

    def keep(self, step: int) -> Path:
        """Write the weights, and this process's micro-batches of the step."""
        folder = self.kept_at(step)
        folder.mkdir(parents=True, exist_ok=True)
        for number, batch in enumerate(self.batches(step)):
            place = f"batch-{self.accelerator.process_index}-{number}.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in batch.inputs.items()}, folder / place)
        weights = self.weights()
        if self.accelerator.is_main_process:
            save_file(checkpoint.copied(weights), folder / checkpoint.WEIGHTS)
        return folder

    def state(self) -> dict:
        """What a checkpoint keeps of it, once `settle` has been called."""
        return {"skipped": self.skipped, "skipped_in_a_row": self.in_a_row, "usual_loss": self.usual.tolist()}
