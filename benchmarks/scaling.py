"""Measure training in one process and in two, the share of communication, and estimate the efficiency of more.

    python benchmarks/scaling.py [config=scratch] [steps=30] [rounds=3] [key=value ...]

Each process has one thread. Three settings alternate: one process; two independent processes, which shows the cost of
shared memory and caches; two joined by gloo, with as many rows each. The difference of the last two is communication.
Writes its section of benchmarks/RESULTS.md, with an estimate for more processes and its formula.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import results

WARMUP_STEPS = 5  # not counted
SETTINGS = ("one", "two independent", "two joined")

# The estimate is for BERT-base in bf16 on GPUs like the H100; these numbers are not measured here.
NUM_PARAMETERS = 110e6
FLOPS_PER_SECOND = 0.5 * 989e12  # half the peak
ROWS_PER_GPU, MAX_LENGTH = 64, 512
GPUS_PER_NODE = 8
INTRA_NODE_BANDWIDTH, INTER_NODE_BANDWIDTH = 450e9, 50e9  # bytes per second of NVLink and of the network
LATENCY = 10e-6  # seconds per hop
COMPUTE_SECONDS = 6 * NUM_PARAMETERS * ROWS_PER_GPU * MAX_LENGTH / FLOPS_PER_SECOND  # per step


def run_worker(args: list[str]) -> None:
    """Train in one process; the main one prints the seconds of its steps and the bytes of its gradients."""
    import pretrain.train as stage
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    steps, never = int(args[0]), 1_000_000
    endless = [f"train.{key}={never}" for key in ("steps", "save_every", "eval_every", "log_every")]
    config = load_config(Pretrain, [*args[1:], *endless])
    trainer_class, times = stage.Trainer, []

    def make_timed_trainer(module, *args):
        *others, callbacks, options = args

        def record(step: int) -> None:
            callbacks.after_step(step)
            times.append(time.perf_counter())
            if len(times) == WARMUP_STEPS + steps:
                if os.environ.get("RANK", "0") == "0":
                    seconds = times[-1] - times[WARMUP_STEPS - 1]
                    num_bytes = sum(parameter.nbytes for parameter in module.parameters())
                    print(json.dumps({"seconds": seconds, "gradient_bytes": num_bytes}), flush=True)
                os._exit(0)

        return trainer_class(module, *others, replace(callbacks, after_step=record), options)

    stage.Trainer = make_timed_trainer
    stage.pretrain(config)


def start_training(steps: int, num_processes: int, name: str, args: list[str]) -> subprocess.Popen:
    """Start a training of joined processes."""
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), *rendezvous]
    return subprocess.Popen(
        [sys.executable, *(launch if num_processes > 1 else []), __file__, "worker", str(steps), *args, f"run={name}"],
        cwd=results.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )


def read_measurement(process: subprocess.Popen) -> dict:
    """Return what a training printed. Exits if it printed nothing."""
    lines = [line for line in process.communicate()[0].splitlines() if line.startswith('{"seconds"')]
    return json.loads(lines[0]) if lines else sys.exit("a training ended before it was measured")


def estimate_scaling(num_gpus: int, overlap_fraction: float = 2 / 3) -> tuple[float, float]:
    """Return (seconds of a step's all-reduce, efficiency). overlap_fraction: share of compute that can hide it."""
    nodes, local, size = -(-num_gpus // GPUS_PER_NODE), min(num_gpus, GPUS_PER_NODE), 4 * NUM_PARAMETERS
    reduce = 2 * (local - 1) / local * size / INTRA_NODE_BANDWIDTH + 2 * (local - 1) * LATENCY
    reduce += 2 * (nodes - 1) / nodes * size / local / INTER_NODE_BANDWIDTH + 2 * (nodes - 1) * LATENCY
    exposed = max(0.0, reduce - overlap_fraction * COMPUTE_SECONDS)
    return reduce, COMPUTE_SECONDS / (COMPUTE_SECONDS + exposed)


def describe(seconds: dict[str, list[float]], steps: int, rows: int, gradient_bytes: int) -> str:
    """Return the section's text for the seconds of each setting."""
    medians = {name: statistics.median(values) / steps for name, values in seconds.items()}
    one, independent, joined = medians.values()
    table = [
        [
            name,
            f"{1000 * medians[name]:,.0f}",
            f"{1000 * min(values) / steps:,.0f} to {1000 * max(values) / steps:,.0f}",
            f"{one / medians[name]:.0%}",
        ]
        for name, values in seconds.items()
    ]
    estimates = [(count, *estimate_scaling(count)) for count in (8, 64, 1_024)]
    estimate_table = [
        [f"{count:,}", f"{1000 * COMPUTE_SECONDS:.1f}", f"{1000 * reduce:.1f}", f"{efficiency:.0%}"]
        for count, reduce, efficiency in estimates
    ]
    return f"""{results.markdown_table(["processes", "ms per step", "range", "efficiency"], table)}

{rows} rows per process and step, one thread each, gradients of {gradient_bytes / 1e6:,.1f} MB. Two independent
processes take {independent / one - 1:.0%} longer than one because they share memory and caches. Joined by gloo on
loopback they take {joined / independent - 1:.0%} longer than that: **{1 - independent / joined:.0%} of a step is
communication**.

An estimate, not a measurement, for BERT-base in bf16 with float32 gradients, {ROWS_PER_GPU} rows of {MAX_LENGTH} per
GPU: compute C = 6 x {NUM_PARAMETERS / 1e6:.0f} M x {ROWS_PER_GPU * MAX_LENGTH:,} tokens /
{FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s; all-reduce R = 2 (g - 1) / g x G / {INTRA_NODE_BANDWIDTH / 1e9:.0f} GB/s inside
a node of g = {GPUS_PER_NODE} GPUs plus 2 (m - 1) / m x G / g / {INTER_NODE_BANDWIDTH / 1e9:.0f} GB/s between m nodes,
G = {4 * NUM_PARAMETERS / 1e6:.0f} MB, {LATENCY * 1e6:.0f} us per hop; two thirds of C hide it:
efficiency = C / (C + max(0, R - 2 C / 3)).

{results.markdown_table(["GPUs", "C, ms", "R, ms", "efficiency"], estimate_table)}"""


def main(args: list[str]) -> None:
    """Run the benchmark, or with `worker` one process."""
    if args[:1] == ["worker"]:
        return run_worker(args[1:])
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    options, rest = results.parse_options(args, config="scratch", steps="30", rounds="3")
    config, steps = options["config"], int(options["steps"])
    pretrain_args = [f"configs/pretrain/{config}.yaml", "train.optimizer=adamw", *rest]
    rows = load_config(Pretrain, pretrain_args).train.batch_size
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    runs = [f"scaling-{number}" for number in range(3)]
    for _ in range(int(options["rounds"])):
        one = read_measurement(start_training(steps, 1, runs[0], pretrain_args))
        pair = [start_training(steps, 1, run, pretrain_args) for run in runs[:2]]
        independent = statistics.mean(read_measurement(process)["seconds"] for process in pair)
        joined_args = [*pretrain_args, f"train.batch_size={2 * rows}"]
        joined = read_measurement(start_training(steps, 2, runs[2], joined_args))["seconds"]
        for name, value in zip(SETTINGS, (one["seconds"], independent, joined), strict=True):
            seconds[name].append(value)
        for run in runs:
            shutil.rmtree(results.ROOT / "out/runs" / run, ignore_errors=True)
    text = describe(seconds, steps, rows, one["gradient_bytes"])
    print(text)
    results.write_section(f"Scaling, {config}", " ".join(["python benchmarks/scaling.py", *args]), text)


if __name__ == "__main__":
    main(sys.argv[1:])
