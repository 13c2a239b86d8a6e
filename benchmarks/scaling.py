"""Training in one process and in two: how well the second is used, what goes into communication, and what that says of more.

    python benchmarks/scaling.py [config=scratch] [steps=30] [rounds=3] [key=value ...]

On each core one thread. Three ways take turns: one process alone; two that know nothing of each other, which shows what sharing
memory and caches costs; two joined by gloo, with as many rows each. What the last is slower by is communication. Writes its
section of benchmarks/RESULTS.md, with an estimate for more processes and the formula it comes from.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
WARMUP_STEPS = 5  # first steps that are not counted

# What the estimate is for: BERT-base in bf16 on GPUs of the H100 class. Stated, not measured here.
NUM_PARAMETERS, FLOPS_PER_SECOND, ROWS_PER_GPU, MAX_LENGTH = (
    110e6,
    0.5 * 989e12,
    64,
    512,
)  # numbers; products a second at half the peak; of a GPU and step
GPUS_PER_NODE, INTRA_NODE_BANDWIDTH, INTER_NODE_BANDWIDTH, LATENCY = (
    8,
    450e9,
    50e9,
    10e-6,
)  # GPUs in one; bytes a second by NVLink and network; seconds a hop


def worker(args: list[str]) -> None:
    """One process of a training: prints, on the main one, the seconds of its steps and the bytes of its gradients."""
    import pretrain.train as stage
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    steps, args = int(args[0]), args[1:]
    config, fit, marks = (
        load_config(
            Pretrain,
            [
                *args,
                f"train.steps={10**6}",
                "train.save_every=1000000",
                "train.eval_every=1000000",
                "train.log_every=1000000",
            ],
        ),
        stage.fit,
        [],
    )

    def timed(module, *rest, after_step, **more):
        def after(step: int) -> None:
            after_step(step)
            marks.append(time.perf_counter())
            if len(marks) == WARMUP_STEPS + steps:
                if os.environ.get("RANK", "0") == "0":
                    print(
                        json.dumps(
                            {
                                "seconds": marks[-1] - marks[WARMUP_STEPS - 1],
                                "bytes": sum(each.nbytes for each in module.parameters()),
                            }
                        ),
                        flush=True,
                    )
                os._exit(0)

        return fit(module, *rest, after_step=after, **more)

    stage.fit = timed
    stage.pretrain(config)


def start_training(steps: int, num_processes: int, name: str, args: list[str]) -> subprocess.Popen:
    """A training of that many processes joined."""
    launch = (
        [
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(num_processes),
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "127.0.0.1:0",
        ]
        if num_processes > 1
        else []
    )
    return subprocess.Popen(
        [sys.executable, *launch, __file__, "worker", str(steps), *args, f"run={name}"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )


def read_measurement(process: subprocess.Popen) -> dict:
    lines = [line for line in process.communicate()[0].splitlines() if line.startswith('{"seconds"')]
    return json.loads(lines[0]) if lines else sys.exit("a training ended before it was measured")


def estimate_scaling(num_gpus: int, overlap_fraction: float = 2 / 3) -> tuple[float, float]:
    """(seconds of a step's all-reduce, efficiency) for so many GPUs; `overlap_fraction`: the share of the products it can hide behind."""
    compute = 6 * NUM_PARAMETERS * ROWS_PER_GPU * MAX_LENGTH / FLOPS_PER_SECOND
    machines, inside, size = -(-num_gpus // GPUS_PER_NODE), min(num_gpus, GPUS_PER_NODE), 4 * NUM_PARAMETERS
    reduce = 2 * (inside - 1) / inside * size / INTRA_NODE_BANDWIDTH + 2 * (inside - 1) * LATENCY
    reduce += 2 * (machines - 1) / machines * size / inside / INTER_NODE_BANDWIDTH + 2 * (machines - 1) * LATENCY
    return reduce, compute / (compute + max(0.0, reduce - overlap_fraction * compute))


def main(args: list[str]) -> None:
    if args[:1] == ["worker"]:
        return worker(args[1:])
    import results

    own = dict(word.split("=", 1) for word in args if word.split("=")[0] in ("config", "steps", "rounds"))
    name, steps = own.get("config", "scratch"), int(own.get("steps", 30))
    rest = [
        f"configs/pretrain/{name}.yaml",
        "train.optimizer=adamw",
        *(word for word in args if word.split("=")[0] not in own),
    ]
    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    rows = load_config(Pretrain, rest).train.batch_size
    seconds: dict[str, list[float]] = {"one": [], "two apart": [], "two joined": []}
    for turn in range(int(own.get("rounds", 3))):
        runs = [f"scaling-{number}" for number in range(3)]
        seconds["one"].append((one := read_measurement(start_training(steps, 1, runs[0], rest)))["seconds"])
        apart = [start_training(steps, 1, run, rest) for run in runs[:2]]
        seconds["two apart"].append(statistics.mean(read_measurement(each)["seconds"] for each in apart))
        seconds["two joined"].append(
            read_measurement(start_training(steps, 2, runs[2], [*rest, f"train.batch_size={2 * rows}"]))["seconds"]
        )
        for run in runs:
            shutil.rmtree(ROOT / "out/runs" / run, ignore_errors=True)
    one_step, apart_step, joined_step = (statistics.median(each) / steps for each in seconds.values())
    text = results.markdown_table(
        ["", "ms a step", "over the rounds", "efficiency"],
        [
            [
                way,
                f"{1000 * median:,.0f}",
                f"{1000 * min(each) / steps:,.0f} to {1000 * max(each) / steps:,.0f}",
                f"{one_step / median:.0%}",
            ]
            for (way, each), median in zip(seconds.items(), (one_step, apart_step, joined_step))
        ],
    )
    text += (
        f"\n\n{rows} rows a process and step, one thread each, gradients of {one['bytes'] / 1e6:,.1f} MB. Two that know nothing of"
        f" each other take {apart_step / one_step - 1:.0%} longer than one: shared memory and caches. Joined by gloo on loopback"
        f" they take {joined_step / apart_step - 1:.0%} longer than that: **{1 - apart_step / joined_step:.0%} of a step is"
        " communication**.\n\nAn estimate, not a measurement, for BERT-base in bf16 with float32 gradients,"
        f" {ROWS_PER_GPU} rows of {MAX_LENGTH} a GPU: compute C = 6 x {NUM_PARAMETERS / 1e6:.0f} M x {ROWS_PER_GPU * MAX_LENGTH:,} tokens / {FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s;"
        f" all-reduce R = 2 (g - 1) / g x G / {INTRA_NODE_BANDWIDTH / 1e9:.0f} GB/s inside a machine of g = {GPUS_PER_NODE} plus 2 (m - 1) / m x G / g /"
        f" {INTER_NODE_BANDWIDTH / 1e9:.0f} GB/s between m machines, G = {4 * NUM_PARAMETERS / 1e6:.0f} MB, {LATENCY * 1e6:.0f} us a hop; two thirds of C hide"
        " it: efficiency = C / (C + max(0, R - 2 C / 3)).\n\n"
    )
    text += results.markdown_table(
        ["GPUs", "C, ms", "R, ms", "efficiency"],
        [
            [
                f"{count:,}",
                f"{6e3 * NUM_PARAMETERS * ROWS_PER_GPU * MAX_LENGTH / FLOPS_PER_SECOND:.1f}",
                f"{1000 * estimate_scaling(count)[0]:.1f}",
                f"{estimate_scaling(count)[1]:.0%}",
            ]
            for count in (8, 64, 1_024)
        ],
    )
    print(text)
    results.write_section(f"Scaling, {name}", " ".join(["python benchmarks/scaling.py", *args]), text)


if __name__ == "__main__":
    main(sys.argv[1:])
