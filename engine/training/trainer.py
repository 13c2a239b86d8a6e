"""The one training loop. It knows neither text nor tasks: batches come from a function of the step, losses from a module.

    fit(module, optimizer, batches, train, run, accelerator, ...)

What a module returns and how a step's gradient is added up: `engine.training.step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.errors import CommandExit
from engine.runs.progress import Progress
from engine.runs.run import Run
from engine.system import hardware
from engine.training import distributed, preflight, stop_signals
from engine.training.distributed import broadcast_metrics
from engine.training.loss_guard import LossGuard
from engine.training.optimizers import lr_at, step_unless
from engine.training.replay import replay
from engine.training.settings import Train
from engine.training.step import MicroBatch, forward_backward, scale_and_clip_gradients
from engine.training.weight_averaging import WeightAverage


@dataclass
class TrainResult:
    """How a training went."""

    step: int
    tokens: int
    seconds: float
    metrics: dict[str, float]
    """The evaluation of the weights the module now has."""


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
    """Train `module` for `train.steps` steps, going on from the run's newest checkpoint that is whole.

    batches(step, rows): this process's micro-batches of that step, of so many rows each, a pure function of both.
    before_step(step), after_step(step): where a stage freezes layers, or an objective keeps a teacher.
    after_save(how it has gone so far): called by the main process once a checkpoint has been begun.
    evaluate(): figures of the present weights.
    monitor: the figure to maximise; the best weights seen are the ones the module ends with.
    patience: evaluations without a better `monitor` after which training stops.
    sharded: whether weights, gradients and optimizer state are spread over the processes (FSDP2) instead of copied (DDP).
    Raises ConfigError and DataError for what keeps it from going on, Leave when it was asked to stop or only to look.
    """
    hardware.tune_malloc()
    steps, device, micro_batch = train.steps, accelerator.device, train.micro_batch_size
    if train.replay:
        raise CommandExit(replay(module, run.folder, train.replay, accelerator))

    def look(step: int) -> str:
        return preflight.check(
            module, get_micro_batches(step, preflight.PROBE_ROWS)[0].inputs, run.folder, train, accelerator
        )

    if train.dry_run:
        raise CommandExit(look(0))
    with accelerator.main_process_first():  # which sets aside what is damaged
        if accelerator.is_main_process:
            checkpoint.quarantine_damaged(run.folder)
    state = checkpoint.load_latest(run.folder, module, optimizer) or {
        "step": 0,
        "tokens": 0,
        "seconds": 0.0,
        "checkpoint_seconds": 0.0,
        "metric_sums": {},
        "best_metrics": None,
        "evals_without_improvement": 0,
        "eval": {},
        "skipped_steps": 0,
        "consecutive_skips": 0,
        "ema_loss": [0.0, 0.0],
    }
    enough = patience is not None and state["evals_without_improvement"] >= patience
    upcoming = range(steps if enough else state["step"], steps)
    if upcoming:
        look(upcoming[0])
    run.resume_at(state["step"])
    way = distributed.make_strategy(module, optimizer, accelerator, sharded)
    optimizer, parameters = way.optimizer, list(way.train_module.parameters())  # to find them takes a millisecond

    def weights() -> dict[str, Tensor]:
        way.gather_weights()
        return checkpoint.model_state(module)

    average = WeightAverage(module, steps - round(train.average_fraction * steps))
    average.load_latest(run.folder)
    window = {
        name: torch.tensor(sums, dtype=torch.float64, device=device) for name, sums in state["metric_sums"].items()
    }
    in_parts = micro_batch is not None and train.batch_size > micro_batch * accelerator.num_processes
    tokens_told, began, told = 0, time.time() - state["seconds"], time.time()

    with (
        Progress(title, steps, state["step"], accelerator.is_main_process) as progress,
        stop_signals.catch_signals() as asked,
        AsyncSaver(run.folder, train.keep_checkpoints, state["checkpoint_seconds"]) as saver,
    ):
        guard = LossGuard(weights, lambda step: get_micro_batches(step, micro_batch), train, saver, accelerator, state)
        for step, micro_batches in prefetch(lambda step: get_micro_batches(step, micro_batch), upcoming, device):
            way.train_module.train()  # and then what is frozen is set apart
            before_step(step)
            way.sync_frozen()
            rate = lr_at(step, steps, train)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            try:
                counted, tokens = forward_backward(way, micro_batches, accelerator, seed, step, in_parts, asked)
            except RuntimeError as error:
                raise preflight.explain_oom(error, preflight.rows_per_forward(train, accelerator)) from None
            guard.resolve()
            norm = scale_and_clip_gradients(
                parameters, accelerator.num_processes / counted["loss"][1].clamp(min=1), train.max_grad_norm
            )
            bad = guard.check(step, counted["loss"], norm, counted.pop("asked")[0])
            step_unless(bad, optimizer)
            optimizer.zero_grad(set_to_none=True)
            after_step(step)
            average.update(step)
            tokens_told += tokens
            window = {name: window.get(name, 0) + sums.where(~bad, 0) for name, sums in counted.items()}

            done = step + 1
            # With several processes all learn at the same step that one of them was asked to stop.
            stop = asked.signal is not None if accelerator.num_processes == 1 else guard.stop_requested
            evaluating = done % train.eval_every == 0 or done == steps
            logging = evaluating or done % train.log_every == 0
            saver.raise_if_failed()
            if logging or done % train.save_every == 0 or stop:
                guard.resolve()
                sums = torch.stack(list(window.values()))
                (loss, *figures), now = (sums[:, 0] / sums[:, 1]).tolist(), time.time()
                tokens = int(accelerator.reduce(torch.tensor(tokens_told, device=device), "sum"))
                per_second = tokens / (now - told)
                progress.update(done, f"loss {loss:.3f}  {per_second:,.0f} tokens/s")
                entry = {
                    "step": done,
                    "loss": loss,
                    "lr": rate,
                    "grad_norm": norm.item(),
                    "tokens": state["tokens"] + tokens,
                    "tokens_per_second": round(per_second),
                    "seconds": round(now - began, 2),
                    "checkpoint_seconds": round(saver.checkpoint_seconds, 2),
                    "skipped_steps": guard.skipped_steps,
                    **dict(zip(list(window)[1:], figures)),
                }
                if evaluating:
                    way.gather_weights()
                    module.eval()
                    with average.average_parameters():
                        entry["eval"] = state["eval"] = broadcast_metrics(evaluate(), accelerator)
                        score = state["eval"].get(monitor) if monitor else None
                        if score is not None and (
                            state["best_metrics"] is None or score > state["best_metrics"][monitor]
                        ):
                            state["best_metrics"], state["evals_without_improvement"] = (
                                {**state["eval"], "step": done},
                                0,
                            )
                            if accelerator.is_main_process:
                                saver.save_best(module, state["best_metrics"])
                        elif monitor:
                            state["evals_without_improvement"] += 1
                    enough = patience is not None and state["evals_without_improvement"] >= patience
                if logging:
                    run.log(entry)
                    window = {}
                state |= {
                    "step": done,
                    "tokens": state["tokens"] + tokens,
                    "seconds": time.time() - began,
                    "checkpoint_seconds": saver.checkpoint_seconds,
                    **guard.state_dict(),
                    "metric_sums": {name: sums.tolist() for name, sums in window.items()},
                }
                tokens_told, told = 0, time.time()
                if done % train.save_every == 0 or enough or stop or done == steps:
                    way.save_checkpoint(saver, state, average.state_dict())
                    way.gather_weights()
                    if accelerator.is_main_process:
                        with average.average_parameters():
                            after_save(TrainResult(done, state["tokens"], state["seconds"], state["eval"]))
                if stop and not enough and done < steps:
                    saver.wait()
                    stop_signals.exit_on_signal(
                        asked, f"{run.folder}: stopped after step {done} of {steps}, saved; the same command goes on"
                    )
            if enough:
                break
    run.finish()
    accelerator.wait_for_everyone()
    way.gather_weights()
    if monitor and state["best_metrics"] and checkpoint.load_best(module, run.folder):
        state["eval"] = state["best_metrics"]
    else:
        average.copy_to_module()
    module.eval()
    return TrainResult(state["step"], state["tokens"], state["seconds"], state["eval"])


def prefetch(
    get_micro_batches: Callable[[int], list[MicroBatch]], steps: range, device: torch.device
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """(step, its micro-batches) for each of `steps`, the next ones made, and on a GPU pinned, while a step is computed."""

    def make(step: int) -> list[MicroBatch]:
        made = get_micro_batches(step)
        if device.type != "cuda":
            return made
        return [
            MicroBatch({name: tensor.pin_memory() for name, tensor in batch.inputs.items()}, batch.num_tokens)
            for batch in made
        ]

    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            current = following.result()
            if step + 1 < steps.stop:
                following = thread.submit(make, step + 1)
            yield step, current
