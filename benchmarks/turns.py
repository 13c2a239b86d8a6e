"""Run contenders alternately: each is a process with its own memory, and one works while the others wait."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from results import ROOT

from engine.system.openmp import SPIN_COUNT

SUSTAINED_SECONDS = 2.0


class TurnTaker:
    """A contender's side: `record_step` after each step waits while it is another contender's turn."""

    def __init__(self, flops_per_item: float):
        """flops_per_item: floating-point operations per counted item, such as a token."""
        self.turn_end, self.num_done, self.start_time, self.flops_per_item = 0.0, 0, 0.0, flops_per_item
        self.wait_for_turn()

    def wait_for_turn(self) -> None:
        """Wait for the number of seconds of the next turn; exit when the input ends."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self.num_done, self.start_time = 0, time.perf_counter()
        self.turn_end = self.start_time + float(line)

    def record_step(self, count: int) -> None:
        """Count a step's items; at the end of the turn, report and wait."""
        self.num_done += count
        if time.perf_counter() >= self.turn_end:
            synchronize()
            report = {"num_done": self.num_done, "seconds": time.perf_counter() - self.start_time}
            report |= {"peak_bytes": peak_bytes(), "flops_per_item": self.flops_per_item}
            print(json.dumps(report), file=sys.stderr)
            self.wait_for_turn()


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Return the peak memory of the GPU, or of the process without one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def matmul_flops_per_second(precision: str, seconds: float = 0.0, size: int = 4096) -> float:
    """Measure the floating-point operations per second of products of two square matrices, for a moment or longer.

    A device may not keep up the rate of the first moment, the burst, for `seconds`.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, dtype=getattr(torch, precision), device=device) for _ in range(2))
    left @ right
    synchronize()
    start, products, block = time.perf_counter(), 0, 2 if device == "cpu" else 50
    while not products or time.perf_counter() - start < seconds:
        for _ in range(block):
            left @ right
        products += block
        synchronize()
    return 2 * size**3 * products / (time.perf_counter() - start)


def run_contender(
    args: list[str],
    count_items: Callable,
    compute_flops: Callable = lambda *_: 0.0,
    transform_batch: Callable = lambda batch: batch,
) -> None:
    """Run `python -m pretrain ARGS` as a contender, without an end.

    count_items(micro-batch): items counted. compute_flops(objective, config, micro-batch, whether on a GPU):
    floating-point operations per item. transform_batch(micro-batch): the micro-batch to train on.
    """
    import pretrain.train as stage
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    name = f"bench-{os.getpid()}"
    endless = [f"run={name}", "train.steps=1000000", "train.eval_every=1000000"]
    config = load_config(Pretrain, [*args[:1], "train.save_every=1000000", *args[1:], *endless])
    atexit.register(shutil.rmtree, ROOT / "out" / "runs" / name, ignore_errors=True)
    trainer_class = stage.Trainer

    def make_trainer(module, optimizer, get_micro_batches, train, run, accelerator, callbacks, options):
        first = transform_batch(get_micro_batches(0, train.micro_batch_size)[0])
        turn_taker = TurnTaker(compute_flops(module, config, first, accelerator.device.type == "cuda"))
        counts = {}

        def get_counted_batches(step: int, rows: int | None):
            batches = [transform_batch(batch) for batch in get_micro_batches(step, rows)]
            counts[step] = sum(count_items(batch) for batch in batches)
            return batches

        def record(step: int) -> None:
            callbacks.after_step(step)
            turn_taker.record_step(counts.pop(step))

        hooks = replace(callbacks, after_step=record)
        return trainer_class(module, optimizer, get_counted_batches, train, run, accelerator, hooks, options)

    stage.Trainer = make_trainer
    stage.pretrain(config)


def start_contender(script: str, name: str, args: list[str]) -> subprocess.Popen:
    """Start a contender; it answers each number of seconds on its stdin with a line on its stderr."""
    return subprocess.Popen(
        [sys.executable, script, "worker", name, *args],
        stdin=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    )


def run_turn(process: subprocess.Popen, seconds: float) -> dict:
    """Return the report of one turn. Exits with the contender's stderr if it died."""
    output = []
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    for line in process.stderr:
        if line.startswith('{"num_done"'):
            return json.loads(line)
        output.append(line)
    sys.exit("".join(output[-30:]))


def compare_contenders(script: str, names: list[str], rounds: int, seconds: float, args: list[str]) -> dict[str, dict]:
    """Measure `python SCRIPT worker NAME ARGS` for each name alternately; the first turn of each is not counted.

    Returns {name: {"rates": items per second in each round, "peak_bytes", "flops_per_item"}}, and under "float32",
    "bfloat16" and "bfloat16 sustained" the rates of matrix products, the last over two seconds.
    """
    processes = {name: start_contender(script, name, args) for name in names}
    measurements: dict = {name: {"rates": []} for name in names}
    measurements |= {"float32": [], "bfloat16": [], "bfloat16 sustained": []}
    for name in names:
        run_turn(processes[name], seconds)
    for _ in range(rounds):
        for name in names:
            report = run_turn(processes[name], seconds)
            measurements[name]["rates"].append(report["num_done"] / report["seconds"])
            measurements[name] |= {key: report[key] for key in ("peak_bytes", "flops_per_item")}
        for precision in ("float32", "bfloat16"):
            measurements[precision].append(matmul_flops_per_second(precision))
        measurements["bfloat16 sustained"].append(matmul_flops_per_second("bfloat16", SUSTAINED_SECONDS))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return measurements


def summarize_rates(rates: list[float], decimals: int = 0) -> list[str]:
    """Return the cells of the median and the range of rates."""
    import statistics

    median, low, high = (f"{value:,.{decimals}f}" for value in (statistics.median(rates), min(rates), max(rates)))
    return [median, f"{low} to {high}"]
