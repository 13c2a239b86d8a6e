"""The training loop, independent of text and tasks: batches are a function of the step, losses come from a module."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.errors import CommandExit
from engine.runs.progress import Progress
from engine.runs.run import Run
from engine.system import hardware, stop_signals
from engine.training import preflight
from engine.training.distributed import STEP_TIMEOUT, DDPStrategy, FSDPStrategy, broadcast_from_main, limit_waiting
from engine.training.loss_guard import LossGuard
from engine.training.optimizers import lr_at, step_unless
from engine.training.replay import replay
from engine.training.settings import Train
from engine.training.step import MicroBatch, forward_backward, scale_and_clip_gradients
from engine.training.weight_averaging import WeightAverage

GetMicroBatches = Callable[[int, int | None], list[MicroBatch]]
"""(step, rows) -> this process's micro-batches of a step, `rows` rows each; a pure function of both."""


@dataclass
class TrainResult:
    """Outcome of a training, or of the part of it that is done."""

    step: int
    tokens: int
    seconds: float
    metrics: dict[str, float]
    """The evaluation of the module's current weights."""


@dataclass
class Callbacks:
    """Functions that the training loop calls."""

    before_step: Callable[[int], None] = lambda step: None
    """Called with the step, for example to freeze layers."""
    after_step: Callable[[int], None] = lambda step: None
    """Called with the step, for example to update a teacher."""
    after_save: Callable[[TrainResult], None] = lambda result: None
    """Called by the main process with the result so far, after each checkpoint is submitted."""
    evaluate: Callable[[], dict[str, float]] = dict
    """Returns metrics of the current weights."""


@dataclass
class TrainerOptions:
    """What a stage chooses for the training loop."""

    seed: int
    title: str
    monitor: str | None = None
    """The metric to maximize; training ends with the best weights seen."""
    patience: int | None = None
    """Evaluations without a better `monitor` after which training stops."""
    unit: str = "tokens"
    """What `MicroBatch.num_tokens` counts, for the console."""
    sharded: bool = False
    """Whether weights, gradients and optimizer state are sharded over the processes (FSDP2) or replicated (DDP)."""


class Trainer:
    """Trains `module` for `train.steps` steps, resuming from the run's newest undamaged checkpoint.

    Raises ConfigError or DataError if training cannot continue, CommandExit after a signal, a dry run or a replay.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        get_micro_batches: GetMicroBatches,
        train: Train,
        run: Run,
        accelerator: Accelerator,
        callbacks: Callbacks,
        options: TrainerOptions,
    ):
        hardware.tune_malloc()
        self.module, self.get_micro_batches, self.train, self.run = module, get_micro_batches, train, run
        self.accelerator, self.callbacks, self.options = accelerator, callbacks, options
        steps, rows, device = train.steps, train.micro_batch_size, accelerator.device
        if train.replay:
            raise CommandExit(replay(module, run.folder, train.replay, accelerator))
        if train.dry_run:
            raise CommandExit(self.preflight_check(0))
        self.state = state = load_state(module, optimizer, run.folder, accelerator)
        self.steps_to_run = range(steps if self.is_out_of_patience else state["step"], steps)
        if self.steps_to_run:
            self.preflight_check(self.steps_to_run[0])
        run.resume_at(state["step"])
        strategy_class = FSDPStrategy if options.sharded and accelerator.num_processes > 1 else DDPStrategy
        self.strategy = strategy = strategy_class(module, optimizer, accelerator)
        self.parameters = list(strategy.train_module.parameters())  # listing them takes a millisecond
        self.average = WeightAverage(module, steps - round(train.average_fraction * steps))
        self.average.load_latest(run.folder)
        pairs = state["metric_sums"].items()
        self.sums = {name: torch.tensor(pair, dtype=torch.float64, device=device) for name, pair in pairs}
        self.is_accumulating = rows is not None and train.batch_size > rows * accelerator.num_processes
        self.new_tokens, self.start_time, self.last_log_time = 0, time.monotonic() - state["seconds"], time.monotonic()
        self.saver = AsyncSaver(run.folder, train.keep_checkpoints, state["checkpoint_seconds"])

        def get_state() -> dict[str, Tensor]:
            strategy.gather_weights()
            return checkpoint.model_state(module)

        # No reference to the trainer, so that its memory is freed when training ends.
        self.guard = LossGuard(get_state, lambda s: get_micro_batches(s, rows), train, self.saver, accelerator, state)
        self.progress = Progress(options.title, steps, state["step"], accelerator.is_main_process)

    def preflight_check(self, step: int) -> str:
        """Describe the disk space and memory needed, with a batch of `step`. Raises ConfigError if less is free."""
        inputs = self.get_micro_batches(step, preflight.PROBE_ROWS)[0].inputs
        num_shards = self.accelerator.num_processes if self.options.sharded else 1
        return preflight.check(self.module, inputs, self.run.folder, self.train, self.accelerator, num_shards)

    def fit(self) -> TrainResult:
        """Run the remaining steps; return the result of the whole training."""
        train, rows, device = self.train, self.train.micro_batch_size, self.accelerator.device
        waiting, signals = limit_waiting(STEP_TIMEOUT), stop_signals.catch_signals()
        with self.progress, signals as self.stop_request, self.saver, waiting:
            for step, batches in prefetch(self.get_micro_batches, rows, self.steps_to_run, device):
                lr, grad_norm = self.train_step(step, batches)
                done, stop = step + 1, self.should_stop()
                evaluating = done % train.eval_every == 0 or done == train.steps
                logging = evaluating or done % train.log_every == 0
                self.saver.raise_if_failed()
                if logging or done % train.save_every == 0 or stop:
                    entry = self.make_log_entry(done, lr, grad_norm)
                    if evaluating:
                        entry["eval"] = self.evaluate(done)
                    if logging:
                        self.log(entry)
                    self.update_state(entry)
                    if done % train.save_every == 0 or self.is_out_of_patience or stop or done == train.steps:
                        self.save()
                    if stop and not self.is_out_of_patience and done < train.steps:
                        self.exit_on_signal()
                if self.is_out_of_patience:
                    break
        return self.finish()

    def train_step(self, step: int, batches: list[MicroBatch]) -> tuple[float, Tensor]:
        """Update the weights once; return the learning rate and the norm of the gradient."""
        strategy, train, accelerator = self.strategy, self.train, self.accelerator
        strategy.train_module.train()  # before the hook, which may set frozen parts to eval mode
        self.callbacks.before_step(step)
        strategy.sync_frozen()
        lr = lr_at(step, train.steps, train)
        for group in strategy.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        try:
            totals, tokens = forward_backward(
                strategy, batches, accelerator, self.options.seed, step, self.is_accumulating, self.stop_request
            )
        except RuntimeError as error:
            raise preflight.explain_oom(error, preflight.rows_per_forward(train, accelerator)) from None
        self.guard.resolve()
        factor = accelerator.num_processes / totals["loss"][1].clamp(min=1)
        grad_norm = scale_and_clip_gradients(self.parameters, factor, train.max_grad_norm)
        bad = self.guard.check(step, totals["loss"], grad_norm, totals.pop("stop_requests")[0])
        step_unless(bad, strategy.optimizer)
        strategy.optimizer.zero_grad(set_to_none=True)
        self.callbacks.after_step(step)
        self.average.update(step)
        self.new_tokens += tokens
        self.sums = {name: self.sums.get(name, 0) + pair.where(~bad, 0) for name, pair in totals.items()}
        return lr, grad_norm

    def should_stop(self) -> bool:
        """Return whether any process received a signal; all of them return the same at the same step."""
        if self.accelerator.num_processes == 1:
            return self.stop_request.signal is not None
        return self.guard.stop_requested

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no improvement."""
        patience = self.options.patience
        return patience is not None and self.state["evals_without_improvement"] >= patience

    def make_log_entry(self, done: int, lr: float, grad_norm: Tensor) -> dict:
        """Return the log's entry on the steps since the last one, and show it on the console."""
        self.guard.resolve()
        stacked = torch.stack(list(self.sums.values()))
        (loss, *others), now = (stacked[:, 0] / stacked[:, 1]).tolist(), time.monotonic()
        tokens = int(self.accelerator.reduce(torch.tensor(self.new_tokens, device=self.accelerator.device), "sum"))
        per_second = tokens / max(1e-9, now - self.last_log_time)
        self.progress.update(done, f"loss {loss:.3f}  {per_second:,.0f} {self.options.unit}/s")
        tokens += self.state["tokens"]
        entry = {"step": done, "loss": loss, "lr": lr, "grad_norm": grad_norm.item(), "tokens": tokens}
        entry |= {"tokens_per_second": round(per_second), "seconds": round(now - self.start_time, 2)}
        entry |= {"checkpoint_seconds": round(self.saver.checkpoint_seconds, 2)}
        entry |= {"skipped_steps": self.guard.skipped_steps}
        return entry | dict(zip(list(self.sums)[1:], others, strict=True))

    def evaluate(self, done: int) -> dict[str, float]:
        """Evaluate the average of the weights, or the weights; save them if they are the best so far."""
        self.strategy.gather_weights()
        self.module.eval()
        with self.average.average_parameters():
            metrics = broadcast_from_main(self.callbacks.evaluate(), self.accelerator)
            is_best = update_best(self.state, metrics, done, self.options.monitor)
            if is_best and self.accelerator.is_main_process:
                self.saver.save_best(self.module, self.state["best_metrics"])
        return metrics

    def log(self, entry: dict) -> None:
        """Log an entry and start the sums of the next one."""
        self.run.log(entry)
        self.sums = {}

    def update_state(self, entry: dict) -> None:
        """Update the state that a checkpoint contains; `entry` is the log's entry on the step."""
        self.state |= {"step": entry["step"], "tokens": entry["tokens"], "seconds": time.monotonic() - self.start_time}
        self.state |= {"checkpoint_seconds": self.saver.checkpoint_seconds, **self.guard.state_dict()}
        self.state["metric_sums"] = {name: pair.tolist() for name, pair in self.sums.items()}
        self.new_tokens, self.last_log_time = 0, time.monotonic()

    def save(self) -> None:
        """Start writing a checkpoint."""
        self.strategy.save_checkpoint(self.saver, self.state, self.average.state_dict())
        self.strategy.gather_weights()
        if self.accelerator.is_main_process:
            with self.average.average_parameters():
                self.callbacks.after_save(self.result())

    def exit_on_signal(self) -> None:
        """Raise CommandExit once the last checkpoint is written."""
        self.saver.wait()
        self.accelerator.wait_for_everyone()  # torchrun ends the process that writes as soon as another one has ended
        stopped = f"{self.run.folder}: stopped after step {self.state['step']} of {self.train.steps}, saved"
        stop_signals.exit_on_signal(self.stop_request, f"{stopped}; rerun the command to resume")

    def finish(self) -> TrainResult:
        """Load the best weights if a metric is monitored, else the average of the weights if there is one."""
        self.run.finish()
        self.accelerator.wait_for_everyone()
        self.strategy.gather_weights()
        best = self.state["best_metrics"]
        if self.options.monitor and best and checkpoint.load_best(self.module, self.run.folder):
            self.state["eval"] = best
        else:
            self.average.copy_to_module()
        self.module.eval()
        return self.result()

    def result(self) -> TrainResult:
        """Return the result so far."""
        return TrainResult(self.state["step"], self.state["tokens"], self.state["seconds"], self.state["eval"])


def load_state(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, accelerator: Accelerator) -> dict:
    """Load the newest undamaged checkpoint of a run and return its state, or the state of a new run."""
    with accelerator.main_process_first():  # the main process renames damaged checkpoints
        if accelerator.is_main_process:
            checkpoint.quarantine_damaged(folder)
    new = {"step": 0, "tokens": 0, "seconds": 0.0, "checkpoint_seconds": 0.0, "metric_sums": {}, "best_metrics": None}
    new |= {"evals_without_improvement": 0, "eval": {}}
    new |= {"skipped_steps": 0, "consecutive_skips": 0, "ema_loss": [0.0, 0.0]}
    return checkpoint.load_latest(folder, module, optimizer) or new


def update_best(state: dict, metrics: dict[str, float], step: int, monitor: str | None) -> bool:
    """Store an evaluation after `step` steps in `state`; return whether it is the best so far by `monitor`."""
    state["eval"] = metrics
    score, best = metrics.get(monitor) if monitor else None, state["best_metrics"]
    if score is not None and (best is None or score > best[monitor]):
        state |= {"best_metrics": {**metrics, "step": step}, "evals_without_improvement": 0}
        return True
    state["evals_without_improvement"] += bool(monitor)
    return False


def prefetch(
    get_micro_batches: GetMicroBatches, rows: int | None, steps: range, device: torch.device
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """Yield (step, its micro-batches); a thread makes the next ones, and pins them for a GPU, during a step."""

    def make(step: int) -> list[MicroBatch]:
        batches = get_micro_batches(step, rows)
        if device.type != "cuda":
            return batches
        return [MicroBatch({name: t.pin_memory() for name, t in b.inputs.items()}, b.num_tokens) for b in batches]

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            micro_batches = future.result()
            if step + 1 < steps.stop:
                future = thread.submit(make, step + 1)
            yield step, micro_batches
