"""Contenders that take turns: each a process of its own, so that memory is its own, one working while the others wait."""

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
from pathlib import Path

ROOT = Path(__file__).parent.parent


class TurnTaker:
    """A worker's side of taking turns: `step(done)` after each step, which waits while it is another's turn."""

    def __init__(self, flops_per_item: float):
        """products: floating-point operations for one of what is counted."""
        self.turn_end, self.num_done, self.start_time, self.flops_per_item = 0.0, 0, 0.0, flops_per_item
        self.wait_for_turn()

    def wait_for_turn(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self.num_done, self.start_time = 0, time.perf_counter()
        self.turn_end = self.start_time + float(line)

    def record_step(self, count: int) -> None:
        self.num_done += count
        if time.perf_counter() >= self.turn_end:
            synchronize()
            seconds = time.perf_counter() - self.start_time
            print(
                json.dumps(
                    {
                        "done": self.num_done,
                        "seconds": seconds,
                        "peak_bytes": peak_bytes(),
                        "products": self.flops_per_item,
                    }
                ),
                file=sys.stderr,
            )
            self.wait_for_turn()


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Of the GPU's memory where there is one, else of the process's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def matmul_flops_per_second(precision: str, size: int = 4096) -> float:
    """Floating-point operations a second of a product of two square matrices."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = (torch.randn(size, size, dtype=getattr(torch, precision), device=device) for _ in range(2))
    for times in (1, 2 if device == "cpu" else 50):
        synchronize()
        began = time.perf_counter()
        for _ in range(times):
            one @ other
        synchronize()
    return 2 * size**3 * times / (time.perf_counter() - began)


def run_contender(
    args: list[str],
    count_items: Callable,
    compute_flops: Callable = lambda *_: 0.0,
    transform_batch: Callable = lambda batch: batch,
) -> None:
    """`python -m pretrain WORDS` as a contender, run for ever.

    count(batch): what is counted of a micro-batch; products(objective, configuration, a batch, whether on a GPU): as `TurnTaker`
    has it; change(batch): the micro-batch that is trained on in its place.
    """
    import pretrain.train as stage
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    name = f"bench-{os.getpid()}"
    config = load_config(
        Pretrain,
        [
            *args[:1],
            "train.save_every=1000000",
            *args[1:],
            f"run={name}",
            "train.steps=1000000",
            "train.eval_every=1000000",
        ],
    )
    atexit.register(shutil.rmtree, ROOT / "out" / "runs" / name, ignore_errors=True)
    fit = stage.fit

    def told(module, optimizer, batches, train, run, accelerator, *, after_step: Callable[[int], None], **rest):
        first = transform_batch(batches(0, train.micro_batch_size)[0])
        taking, counts = TurnTaker(compute_flops(module, config, first, accelerator.device.type == "cuda")), {}

        def counted(step: int, rows: int | None):
            made = [transform_batch(batch) for batch in batches(step, rows)]
            counts[step] = sum(count_items(batch) for batch in made)
            return made

        def after(step: int) -> None:
            after_step(step)
            taking.record_step(counts.pop(step))

        return fit(module, optimizer, counted, train, run, accelerator, after_step=after, **rest)

    stage.fit = told
    stage.pretrain(config)


def start_contender(script: str, name: str, args: list[str]) -> subprocess.Popen:
    """Start a contender; it answers each number of seconds on its input with a line on its error output."""
    return subprocess.Popen(
        [sys.executable, script, "worker", name, *args],
        stdin=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    )


def run_turn(process: subprocess.Popen, seconds: float) -> dict:
    """One turn's figures. Exits with what the contender said when it died."""
    said = []
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    for line in process.stderr:
        if line.startswith('{"done"'):
            return json.loads(line)
        said.append(line)
    sys.exit("".join(said[-30:]))


def compare_contenders(script: str, names: list[str], rounds: int, seconds: float, args: list[str]) -> dict[str, dict]:
    """`python SCRIPT worker NAME WORDS` for each name, measured in turns.

    Returns {name: {"rates": [what is counted a second, a round each], "peak_bytes", "products"}}, and under "float32" and
    "bfloat16" the rate of matrix products.
    """
    processes = {name: start_contender(script, name, args) for name in names}
    found: dict = {name: {"rates": []} for name in names} | {"float32": [], "bfloat16": []}
    for name in names:
        run_turn(processes[name], seconds)
    for _ in range(rounds):
        for name in names:
            told = run_turn(processes[name], seconds)
            found[name]["rates"].append(told["done"] / told["seconds"])
            found[name] |= {"peak_bytes": told["peak_bytes"], "products": told["products"]}
        for precision in ("float32", "bfloat16"):
            found[precision].append(matmul_flops_per_second(precision))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return found
