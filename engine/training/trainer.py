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
from engine.system import hardware
from engine.training import preflight, stop_signals
from engine.training.distributed import DDPStrategy, FSDPStrategy, broadcast_metrics
from engine.training.loss_guard import LossGuard
from engine.training.optimizers import lr_at, step_unless
from engine.training.replay import replay
from engine.training.settings import Train
from engine.training.step import MicroBatch, forward_backward, scale_and_clip_gradients
from engine.training.weight_averaging import WeightAverage


@dataclass
class TrainResult:
    """Outcome of a training, or of the part of it that is done."""

    step: int
    tokens: int
    seconds: float
    metrics: dict[str, float]
    """The evaluation of the module's current weights."""


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    get_micro_batches: Callable[[int, int | None], list[MicroBatch]],
    train: Train,
    run: Run,
    accelerator: Accelerator,
    *,
    seed: int,
    title: str,
    before_step: Callable[[int], None] = lambda step: None,
    after_step: Callable[[int], None] = lambda step: None,
    after_save: Callable[[TrainResult], None] = lambda result: None,
    evaluate: Callable[[], dict[str, float]] = dict,
    monitor: str | None = None,
    patience: int | None = None,
    sharded: bool = False,
) -> TrainResult:
    """Train `module` for `train.steps` steps, resuming from the run's newest undamaged checkpoint.

    get_micro_batches(step, rows): this process's micro-batches of a step, `rows` rows each; a pure function of both.
    before_step(step), after_step(step): hooks, for example to freeze layers or to update a teacher.
    after_save(result so far): called by the main process after each checkpoint is submitted.
    evaluate(): metrics of the current weights.
    monitor: the metric to maximize; training ends with the best weights seen.
    patience: evaluations without a better `monitor` after which training stops.
    sharded: whether weights, gradients and optimizer state are sharded over the processes (FSDP2) or replicated (DDP).
    Raises ConfigError or DataError if training cannot continue, CommandExit after a signal, a dry run or a replay.
    """
    hardware.tune_malloc()
    steps, device, rows = train.steps, accelerator.device, train.micro_batch_size
    if train.replay:
        raise CommandExit(replay(module, run.folder, train.replay, accelerator))

    def dry_run_check(step: int) -> str:
        inputs = get_micro_batches(step, preflight.PROBE_ROWS)[0].inputs
        return preflight.check(module, inputs, run.folder, train, accelerator)

    if train.dry_run:
        raise CommandExit(dry_run_check(0))
    state = load_state(module, optimizer, run.folder, accelerator)
    max_evals = float("inf") if patience is None else patience
    early_stop = state["evals_without_improvement"] >= max_evals
    steps_to_run = range(steps if early_stop else state["step"], steps)
    if steps_to_run:
        dry_run_check(steps_to_run[0])
    run.resume_at(state["step"])
    strategy_class = FSDPStrategy if sharded and accelerator.num_processes > 1 else DDPStrategy
    strategy = strategy_class(module, optimizer, accelerator)
    optimizer = strategy.optimizer
    parameters = list(strategy.train_module.parameters())  # listing them takes a millisecond

    def gather_state() -> dict[str, Tensor]:
        strategy.gather_weights()
        return checkpoint.model_state(module)

    average = WeightAverage(module, steps - round(train.average_fraction * steps))
    average.load_latest(run.folder)
    sums = {name: torch.tensor(pair, dtype=torch.float64, device=device) for name, pair in state["metric_sums"].items()}
    accumulating = rows is not None and train.batch_size > rows * accelerator.num_processes
    new_tokens, start_time, last_log_time = 0, time.time() - state["seconds"], time.time()

    with (
        Progress(title, steps, state["step"], accelerator.is_main_process) as progress,
        stop_signals.catch_signals() as request,
        AsyncSaver(run.folder, train.keep_checkpoints, state["checkpoint_seconds"]) as saver,
    ):
        guard = LossGuard(gather_state, lambda s: get_micro_batches(s, rows), train, saver, accelerator, state)
        for step, batches in prefetch(get_micro_batches, rows, steps_to_run, device):
            strategy.train_module.train()  # before the hook, which may set frozen parts to eval mode
            before_step(step)
            strategy.sync_frozen()
            lr = lr_at(step, steps, train)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            try:
                totals, tokens = forward_backward(strategy, batches, accelerator, seed, step, accumulating, request)
            except RuntimeError as error:
                raise preflight.explain_oom(error, preflight.rows_per_forward(train, accelerator)) from None
            guard.resolve()
            factor = accelerator.num_processes / totals["loss"][1].clamp(min=1)
            grad_norm = scale_and_clip_gradients(parameters, factor, train.max_grad_norm)
            bad = guard.check(step, totals["loss"], grad_norm, totals.pop("stop_requests")[0])
            step_unless(bad, optimizer)
            optimizer.zero_grad(set_to_none=True)
            after_step(step)
            average.update(step)
            new_tokens += tokens
            sums = {name: sums.get(name, 0) + pair.where(~bad, 0) for name, pair in totals.items()}

            done = step + 1
            # With several processes, all of them learn at the same step that one received a signal.
            stop = request.signal is not None if accelerator.num_processes == 1 else guard.stop_requested
            evaluating = done % train.eval_every == 0 or done == steps
            logging = evaluating or done % train.log_every == 0
            saver.raise_if_failed()
            if logging or done % train.save_every == 0 or stop:
                guard.resolve()
                stacked = torch.stack(list(sums.values()))
                (loss, *others), now = (stacked[:, 0] / stacked[:, 1]).tolist(), time.time()
                tokens = int(accelerator.reduce(torch.tensor(new_tokens, device=device), "sum"))
                per_second = tokens / (now - last_log_time)
                progress.update(done, f"loss {loss:.3f}  {per_second:,.0f} tokens/s")
                tokens += state["tokens"]
                entry = {"step": done, "loss": loss, "lr": lr, "grad_norm": grad_norm.item(), "tokens": tokens}
                entry |= {"tokens_per_second": round(per_second), "seconds": round(now - start_time, 2)}
                entry |= {"checkpoint_seconds": round(saver.checkpoint_seconds, 2)}
                entry |= {"skipped_steps": guard.skipped_steps, **dict(zip(list(sums)[1:], others, strict=True))}
                if evaluating:
                    strategy.gather_weights()
                    module.eval()
                    with average.average_parameters():
                        entry["eval"] = broadcast_metrics(evaluate(), accelerator)
                        if update_best(state, entry["eval"], done, monitor) and accelerator.is_main_process:
                            saver.save_best(module, state["best_metrics"])
                    early_stop = state["evals_without_improvement"] >= max_evals
                if logging:
                    run.log(entry)
                    sums = {}
                state |= {"step": done, "tokens": tokens, "seconds": time.time() - start_time}
                state |= {"checkpoint_seconds": saver.checkpoint_seconds, **guard.state_dict()}
                state["metric_sums"] = {name: pair.tolist() for name, pair in sums.items()}
                new_tokens, last_log_time = 0, time.time()
                if done % train.save_every == 0 or early_stop or stop or done == steps:
                    strategy.save_checkpoint(saver, state, average.state_dict())
                    strategy.gather_weights()
                    if accelerator.is_main_process:
                        with average.average_parameters():
                            after_save(TrainResult(done, state["tokens"], state["seconds"], state["eval"]))
                if stop and not early_stop and done < steps:
                    saver.wait()
                    message = f"{run.folder}: stopped after step {done} of {steps}, saved; rerun the command to resume"
                    stop_signals.exit_on_signal(request, message)
            if early_stop:
                break
    run.finish()
    accelerator.wait_for_everyone()
    strategy.gather_weights()
    if monitor and state["best_metrics"] and checkpoint.load_best(module, run.folder):
        state["eval"] = state["best_metrics"]
    else:
        average.copy_to_module()
    module.eval()
    return TrainResult(state["step"], state["tokens"], state["seconds"], state["eval"])


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
    get_micro_batches: Callable[[int, int | None], list[MicroBatch]],
    rows: int | None,
    steps: range,
    device: torch.device,
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
