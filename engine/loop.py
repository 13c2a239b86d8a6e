"""The one training loop. It knows neither text nor tasks: batches come from a function of the step, losses from a module.

    fit(module, optimizer, batches, train, run, accelerator, ...)

What a module returns and how a step's gradient is added up: `engine.gradient`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from engine import checkpoint, machine, parallel, preflight, stopping
from engine.average import Average
from engine.config import Train
from engine.errors import Leave
from engine.gradient import Batch, accumulate, scale_gradients
from engine.guard import Guard
from engine.optim import learning_rate, step_unless
from engine.parallel import agreed
from engine.record import Progress, Run
from engine.replay import replay
from engine.saver import Saver


@dataclass
class Result:
    """How a training went."""

    step: int
    tokens: int
    seconds: float
    evaluation: dict[str, float]
    """The evaluation of the weights the module now has."""


def accelerator(precision: str) -> Accelerator:
    """Accelerate for this machine. Everything is trainable when wrapped; freezing later needs find_unused_parameters."""
    on_gpu = torch.cuda.is_available()
    parallel.join(on_gpu)
    if precision == "native":
        precision = "bf16" if machine.has_native_bf16() else "float32"
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if precision == "bf16" else "no",
                       kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True),
                                        InitProcessGroupKwargs(timeout=parallel.WAIT)])


def fit(module: nn.Module, optimizer: torch.optim.Optimizer, batches: Callable[[int, int | None], list[Batch]],
        train: Train, run: Run, accelerator: Accelerator, *, seed: int, title: str,
        before_step: Callable[[int], None] = lambda step: None,
        after_step: Callable[[int], None] = lambda step: None,
        after_save: Callable[[Result], None] = lambda result: None,
        evaluate: Callable[[], dict[str, float]] = dict,
        monitor: str | None = None, patience: int | None = None, sharded: bool = False) -> Result:
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
    machine.keep_freed_memory()
    steps, device, micro_batch = train.steps, accelerator.device, train.micro_batch
    if train.replay:
        raise Leave(replay(module, run.folder, train.replay, accelerator))

    def look(step: int) -> str:
        return preflight.look(module, batches(step, preflight.ROWS)[0].inputs, run.folder, train, accelerator)

    if train.check:
        raise Leave(look(0))
    with accelerator.main_process_first():  # which sets aside what is damaged
        if accelerator.is_main_process:
            checkpoint.pass_over_damaged(run.folder)
    state = checkpoint.restore(run.folder, module, optimizer) or {
        "step": 0, "tokens": 0, "seconds": 0.0, "saving_seconds": 0.0, "window": {}, "best": None, "waited": 0,
        "evaluation": {}, "skipped": 0, "skipped_in_a_row": 0, "usual_loss": [0.0, 0.0]}
    enough = patience is not None and state["waited"] >= patience
    upcoming = range(steps if enough else state["step"], steps)
    if upcoming:
        look(upcoming[0])
    run.rewind(state["step"])
    way = parallel.spread(module, optimizer, accelerator, sharded)
    optimizer, parameters = way.optimizer, list(way.trained.parameters())  # to find them takes a millisecond

    def weights() -> dict[str, Tensor]:
        way.pull()
        return checkpoint.weights(module)

    average = Average(module, steps - round(train.average * steps))
    average.restore(run.folder)
    window = {name: torch.tensor(sums, dtype=torch.float64, device=device) for name, sums in state["window"].items()}
    in_parts = micro_batch is not None and train.batch_size > micro_batch * accelerator.num_processes
    tokens_told, began, told = 0, time.time() - state["seconds"], time.time()

    with (Progress(title, steps, state["step"], accelerator.is_main_process) as progress, stopping.listening() as asked,
          Saver(run.folder, train.keep, state["saving_seconds"]) as saver):
        guard = Guard(weights, lambda step: batches(step, micro_batch), train, saver, accelerator, state)
        for step, micro_batches in ahead(lambda step: batches(step, micro_batch), upcoming, device):
            way.trained.train()  # and then what is frozen is set apart
            before_step(step)
            way.follow()
            rate = learning_rate(step, steps, train)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            try:
                counted, tokens = accumulate(way, micro_batches, accelerator, seed, step, in_parts, asked)
            except RuntimeError as error:
                raise preflight.told(error, preflight.at_once(train, accelerator)) from None
            guard.settle()
            norm = scale_gradients(parameters, accelerator.num_processes / counted["loss"][1].clamp(min=1), train.clip)
            bad = guard.judge(step, counted["loss"], norm, counted.pop("asked")[0])
            step_unless(bad, optimizer)
            optimizer.zero_grad(set_to_none=True)
            after_step(step)
            average.take(step)
            tokens_told += tokens
            window = {name: window.get(name, 0) + sums.where(~bad, 0) for name, sums in counted.items()}

            done = step + 1
            # With several processes all learn at the same step that one of them was asked to stop.
            stop = asked.signal is not None if accelerator.num_processes == 1 else guard.asked
            evaluating = done % train.eval_every == 0 or done == steps
            logging = evaluating or done % train.log_every == 0
            saver.look()
            if logging or done % train.save_every == 0 or stop:
                guard.settle()
                sums = torch.stack(list(window.values()))
                (loss, *figures), now = (sums[:, 0] / sums[:, 1]).tolist(), time.time()
                tokens = int(accelerator.reduce(torch.tensor(tokens_told, device=device), "sum"))
                per_second = tokens / (now - told)
                progress.update(done, f"loss {loss:.3f}  {per_second:,.0f} tokens/s")
                entry = {"step": done, "loss": loss, "lr": rate, "grad_norm": norm.item(),
                         "tokens": state["tokens"] + tokens, "tokens_per_second": round(per_second),
                         "seconds": round(now - began, 2), "saving_seconds": round(saver.seconds, 2),
                         "skipped": guard.skipped, **dict(zip(list(window)[1:], figures))}
                if evaluating:
                    way.pull()
                    module.eval()
                    with average.applied():
                        entry["evaluation"] = state["evaluation"] = agreed(evaluate(), accelerator)
                        score = state["evaluation"].get(monitor) if monitor else None
                        if score is not None and (state["best"] is None or score > state["best"][monitor]):
                            state["best"], state["waited"] = {**state["evaluation"], "step": done}, 0
                            if accelerator.is_main_process:
                                saver.best(module, state["best"])
                        elif monitor:
                            state["waited"] += 1
                    enough = patience is not None and state["waited"] >= patience
                if logging:
                    run.log(entry)
                    window = {}
                state |= {"step": done, "tokens": state["tokens"] + tokens, "seconds": time.time() - began,
                          "saving_seconds": saver.seconds, **guard.state(),
                          "window": {name: sums.tolist() for name, sums in window.items()}}
                tokens_told, told = 0, time.time()
                if done % train.save_every == 0 or enough or stop or done == steps:
                    way.save(saver, state, average.saved())
                    way.pull()
                    if accelerator.is_main_process:
                        with average.applied():
                            after_save(Result(done, state["tokens"], state["seconds"], state["evaluation"]))
                if stop and not enough and done < steps:
                    saver.wait()
                    stopping.leave(asked, f"{run.folder}: stopped after step {done} of {steps}, saved; the same command goes on")
            if enough:
                break
    run.end()
    accelerator.wait_for_everyone()
    way.pull()
    if monitor and state["best"] and checkpoint.load_best(module, run.folder):
        state["evaluation"] = state["best"]
    else:
        average.put()
    module.eval()
    return Result(state["step"], state["tokens"], state["seconds"], state["evaluation"])


def ahead(batches: Callable[[int], list[Batch]], steps: range, device: torch.device) -> Iterator[tuple[int, list[Batch]]]:
    """(step, its micro-batches) for each of `steps`, the next ones made, and on a GPU pinned, while a step is computed."""
    def make(step: int) -> list[Batch]:
        made = batches(step)
        if device.type != "cuda":
            return made
        return [Batch({name: tensor.pin_memory() for name, tensor in batch.inputs.items()}, batch.tokens) for batch in made]

    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            current = following.result()
            if step + 1 < steps.stop:
                following = thread.submit(make, step + 1)
            yield step, current
