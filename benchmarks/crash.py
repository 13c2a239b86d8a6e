"""Kill a training run (SIGKILL) repeatedly at random moments and compare it with an undisturbed run.

    python benchmarks/crash.py [kills=100] [seed=0] [steps=...]

After each kill the same command is run again. Kills come a random number of steps after the start, while a checkpoint
is written, or while the process starts. After each kill the newest checkpoint must be undamaged and no older than
before. At the end weights, optimizer state and log (without its clock) must be bit-identical to those of an
undisturbed run. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import results

from engine.checkpointing import checkpoint

TINY_ARGS = [
    "configs/pretrain/scratch.yaml",
    "max_length=32",
    "tokenizer.vocab_size=512",
    "model.layers=2",
    "model.hidden_size=32",
    "model.attention_heads=2",
    "model.intermediate_size=32",
    "model.positions=64",
    "eval_rows=8",
    "train.batch_size=8",
    "train.precision=float32",
    "train.optimizer=adamw",
    "dropout=0.1",
    "train.log_every=1",
]
KILL_MOMENTS = ("after some steps", "while saving", "after some steps", "while saving", "while starting")


def start_run(args: list[str], name: str, folder: Path) -> subprocess.Popen:
    """Start `python -m pretrain` in a folder."""
    environment = {"PYTHONPATH": str(results.ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-m", "pretrain", *args, f"run={name}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_for_success(process: subprocess.Popen) -> None:
    """Wait for the end of a process. Exits with its stderr if it fails."""
    errors = process.communicate()[1]
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {errors}")


def count_log_lines(run_folder: Path) -> int:
    """Count the lines of a run's log."""
    log = run_folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def kill_at(process: subprocess.Popen, run_folder: Path, moment: str, rng: random.Random) -> None:
    """Wait for the moment, then send SIGKILL."""
    if moment == "while starting":
        time.sleep(rng.uniform(0, 3))
    else:
        before, steps = count_log_lines(run_folder), rng.randint(1, 30)
        while process.poll() is None:
            if moment == "while saving" and any(run_folder.glob(".step-*.unfinished-*")):
                time.sleep(rng.uniform(0, 0.003))
                break
            # A resumed run first rewinds the log to the checkpoint.
            now = count_log_lines(run_folder)
            before = min(before, now)
            if moment != "while saving" and now - before >= steps:
                break
            time.sleep(0.0005)
    if process.poll() is not None:
        errors = process.stderr.read()
        sys.exit(f"the run ended before it could be killed, with exit code {process.returncode}: {errors}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def newest_checkpoint_step(run_folder: Path) -> int:
    """Return the step of the newest checkpoint, or 0 without one. Exits if it is damaged."""
    checkpoints = checkpoint.list_checkpoints(run_folder)
    if checkpoints and (damage := checkpoint.find_damage(checkpoints[-1])):
        sys.exit(f"{checkpoints[-1]}: {damage}")
    return int(checkpoints[-1].name[5:]) if checkpoints else 0


def kill_repeatedly(folder: Path, args: list[str], num_kills: int, seed: int) -> dict:
    """Kill the run `cut` in `folder` and compare it with the undisturbed run `whole`.

    Returns {"moments": number of kills by moment, "lost_checkpoints": number, "identical": files, "different": files}.
    """
    runs, rng = folder / "out/runs", random.Random(seed)
    wait_for_success(start_run(args, "whole", folder))
    moments, lost = Counter(), 0
    for number in range(num_kills):
        moment, newest = KILL_MOMENTS[number % len(KILL_MOMENTS)], newest_checkpoint_step(runs / "cut")
        kill_at(start_run(args, "cut", folder), runs / "cut", moment, rng)
        moments[moment] += 1
        lost += newest_checkpoint_step(runs / "cut") < newest
    wait_for_success(start_run(args, "cut", folder))
    report: dict = {"moments": dict(moments), "lost_checkpoints": lost, "identical": [], "different": []}
    last = checkpoint.list_checkpoints(runs / "whole")[-1].name
    files = "encoder/model.safetensors", f"{last}/model.safetensors", f"{last}/optimizer.safetensors", "log.jsonl"
    for name in files:
        whole, cut = (comparable_content(runs / run / name) for run in ("whole", "cut"))
        report["identical" if whole == cut else "different"].append(name)
    return report


def comparable_content(path: Path) -> object:
    """Return a file's bytes, or a log's entries without their clock."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in entries]


def main(args: list[str]) -> None:
    """Run the benchmark; exit code 1 if anything was lost or differs."""
    options, _ = results.parse_options(args, kills="100", seed="0", steps=None)
    kills, folder = int(options["kills"]), results.ROOT / "out/benchmarks/crash"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    (folder / "out/cache").symlink_to(results.ROOT / "out/cache")
    (folder / "configs").symlink_to(results.ROOT / "configs")
    steps = int(options["steps"] or 40 * kills)
    start = time.time()
    pretrain_args = [*TINY_ARGS, f"train.steps={steps}", "train.save_every=7", f"train.eval_every={steps // 4}"]
    report = kill_repeatedly(folder, pretrain_args, kills, int(options["seed"]))
    moments = ", ".join(f"{count} {moment}" for moment, count in report["moments"].items())
    text = (
        f"{kills} kills of one run of {steps:,} steps ({moments}) in {time.time() - start:,.0f} s:"
        f" {report['lost_checkpoints']} checkpoints lost; bit-identical to the undisturbed run:"
        f" {', '.join(report['identical']) or 'nothing'}; different: {', '.join(report['different']) or 'nothing'}."
    )
    print(text)
    results.write_section("Repeated kills", " ".join(["python benchmarks/crash.py", *args]), text)
    sys.exit(bool(report["lost_checkpoints"] or report["different"]))


if __name__ == "__main__":
    main(sys.argv[1:])
