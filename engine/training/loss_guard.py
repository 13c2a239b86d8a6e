"""Skip the update of a step with a non-finite loss or gradient, or with a sudden jump of the loss.

Flags are read from the device one step later, so that a GPU never waits. `engine.training.replay` inspects bad batches.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.errors import DataError
from engine.log import get_logger
from engine.training.settings import Train

logger = get_logger(__name__)

MAX_DUMPS = 3  # bad batches saved per run, each with all weights; later ones are only counted
EMA_DECAY = 0.98  # of the running mean of the loss, per step
MIN_EMA_WEIGHT = 0.4  # total weight above which the running mean is used: that of 26 steps


class LossGuard:
    """`check` every step; `resolve` before the next update and before the counters are read."""

    def __init__(
        self,
        get_model_state: Callable[[], dict[str, Tensor]],
        get_micro_batches: Callable[[int], list],
        train: Train,
        saver: AsyncSaver,
        accelerator: Accelerator,
        state: dict,
    ):
        self.get_model_state, self.get_micro_batches = get_model_state, get_micro_batches
        self.train, self.saver, self.folder, self.accelerator = train, saver, saver.folder, accelerator
        self.skipped_steps, self.consecutive_skips = state["skipped_steps"], state["consecutive_skips"]
        self.ema_loss = torch.tensor(state["ema_loss"], dtype=torch.float64, device=accelerator.device)
        self.stop_requested, self.pending_flags = False, None

    def check(self, step: int, loss: Tensor, grad_norm: Tensor, stop_requests: Tensor) -> Tensor:
        """Return a boolean scalar on the device, equal on all processes: whether to skip the update of `step`.

        loss: float64 (2,), sum and count over all processes; stop_requests: how many of them received a signal.
        """
        mean = loss[0] / loss[1].clamp(min=1)
        bad = ~(mean.isfinite() & grad_norm.isfinite())
        if self.train.max_loss_ratio:
            limit = self.train.max_loss_ratio * self.ema_loss[0] / self.ema_loss[1].clamp(min=1e-9)
            # A multiple of a negative mean is below it, so that usual losses would be above the limit.
            is_known = (self.ema_loss[1] > MIN_EMA_WEIGHT) & (self.ema_loss[0] > 0)
            bad = bad | (is_known & (mean > limit))
            seen = torch.stack([mean, torch.ones_like(mean)])
            self.ema_loss = torch.where(bad, self.ema_loss, EMA_DECAY * self.ema_loss + (1 - EMA_DECAY) * seen)
        flags = torch.stack([bad, stop_requests > 0]).to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if bad.is_cuda else None
        if copied:
            copied.record()
        self.pending_flags = step, flags, copied
        return bad

    def resolve(self) -> None:
        """Read the flags of the last checked step. Raises DataError after too many consecutive bad steps."""
        if self.pending_flags is None:
            return
        (step, flags, copied), self.pending_flags = self.pending_flags, None
        if copied:
            copied.synchronize()
        bad, self.stop_requested = flags.tolist()
        if not bad:
            self.consecutive_skips = 0
            return
        self.skipped_steps, self.consecutive_skips = self.skipped_steps + 1, self.consecutive_skips + 1
        dumped = f"; batch saved in {self.dump_batch(step)}" if self.skipped_steps <= MAX_DUMPS else ""
        if self.accelerator.is_main_process:
            problem = "the loss or its gradient is not finite, or the loss jumped"
            logger.warning(f"step {step + 1}: {problem}; update skipped{dumped}")
        if self.consecutive_skips >= self.train.max_skipped_steps:
            self.saver.wait()
            saved = checkpoint.list_checkpoints(self.folder)
            raise DataError(
                f"{self.folder}: no usable gradient in {self.consecutive_skips} consecutive steps up to {step + 1}."
                f" {f'The last good checkpoint is {saved[-1].name}' if saved else 'There is no checkpoint yet'}.\n"
                f"To inspect a batch, rerun with train.replay=N for a {self.folder}/nan-step-N. A smaller train.lr or"
                " train.precision=float32 in a new run may help."
            )

    def dump_batch(self, step: int) -> Path:
        """Save the weights and this process's micro-batches of the step; return their folder."""
        folder = self.folder / f"nan-step-{step + 1}"  # from 1, as in the log
        folder.mkdir(parents=True, exist_ok=True)
        for index, batch in enumerate(self.get_micro_batches(step)):
            name = f"batch-{self.accelerator.process_index}-{index}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in batch.inputs.items()}, folder / name)
        weights = self.get_model_state()
        if self.accelerator.is_main_process:
            save_file(checkpoint.copy_to_cpu(weights), folder / checkpoint.WEIGHTS_NAME)
        return folder

    def state_dict(self) -> dict:
        """Return the state for a checkpoint; call `resolve` first."""
        counts = {"skipped_steps": self.skipped_steps, "consecutive_skips": self.consecutive_skips}
        return {**counts, "ema_loss": self.ema_loss.tolist()}
