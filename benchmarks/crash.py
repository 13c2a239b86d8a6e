"""One training run, killed again and again (SIGKILL) at random moments, while it saves too: nothing is lost, and nothing shows.

    python benchmarks/crash.py [kills=100] [seed=0] [steps=...]

The same command is started after each kill, as a person would. A moment is so many steps after the start, drawn anew each time,
or a checkpoint being under way, or anywhere while the process is still starting. After each kill the newest checkpoint is
one that verifies, and none older than that before. At the end weights, optimizer state and log are held against those of a
run that nobody disturbed, bit for bit (the log but for its clock). Writes its section of benchmarks/RESULTS.md.
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

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from engine.checkpointing import checkpoint  # noqa: E402

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
KILL_MOMENTS = ("so many steps on", "while saving", "so many steps on", "while saving", "while starting")


def start_run(args: list[str], name: str, folder: Path) -> subprocess.Popen:
    """`python -m pretrain` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "pretrain", *args, f"run={name}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )


def wait_for_success(process: subprocess.Popen) -> None:
    """Wait for it to end well. Exits with what it said when it does not."""
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {said}")


def count_log_lines(run_folder: Path) -> int:
    """Lines of a run's log."""
    log = run_folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def kill_at(process: subprocess.Popen, run_folder: Path, moment: str, rng: random.Random) -> None:
    """Wait for the moment, then SIGKILL."""
    if moment == "while starting":
        time.sleep(rng.uniform(0, 3))
    else:
        before, steps = count_log_lines(run_folder), rng.randint(1, 30)
        while process.poll() is None:
            if moment == "while saving" and any(run_folder.glob(".step-*.unfinished-*")):
                time.sleep(rng.uniform(0, 0.003))
                break
            # The log is rewound to the checkpoint when a run goes on.
            now = count_log_lines(run_folder)
            before = min(before, now)
            if moment != "while saving" and now - before >= steps:
                break
            time.sleep(0.0005)
    if process.poll() is not None:
        said = process.stderr.read()
        sys.exit(f"it ended before it could be killed, with exit code {process.returncode}: {said}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def newest_checkpoint_step(run_folder: Path) -> int:
    """The step of the newest checkpoint, which must verify; 0 without any."""
    found = checkpoint.list_checkpoints(run_folder)
    if found and (wrong := checkpoint.find_damage(found[-1])):
        sys.exit(f"{found[-1]}: {wrong}")
    return int(found[-1].name[5:]) if found else 0


def kill_repeatedly(folder: Path, args: list[str], num_kills: int, seed: int) -> dict:
    """Kill the run `cut` in `folder` and hold it against the run `whole`, which is made if it is not there.

    Returns {"moments": kills by their kind, "lost": checkpoints gone, "same": files that are the same, "other": those that
    are not}.
    """
    runs, draw = folder / "out/runs", random.Random(seed)
    wait_for_success(start_run(args, "whole", folder))
    moments, lost = Counter(), 0
    for number in range(num_kills):
        moment, had = KILL_MOMENTS[number % len(KILL_MOMENTS)], newest_checkpoint_step(runs / "cut")
        kill_at(start_run(args, "cut", folder), runs / "cut", moment, draw)
        moments[moment] += 1
        lost += newest_checkpoint_step(runs / "cut") < had
    wait_for_success(start_run(args, "cut", folder))
    told: dict = {"moments": dict(moments), "lost": lost, "same": [], "other": []}
    last = checkpoint.list_checkpoints(runs / "whole")[-1].name
    for name in (
        "encoder/model.safetensors",
        f"{last}/model.safetensors",
        f"{last}/optimizer.safetensors",
        "log.jsonl",
    ):
        one, other = (comparable_content(runs / run / name) for run in ("whole", "cut"))
        told["same" if one == other else "other"].append(name)
    return told


def comparable_content(path: Path) -> object:
    """A file's bytes; of a log its entries without the clock."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    return [
        {key: value for key, value in json.loads(line).items() if "second" not in key}
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def main(args: list[str]) -> None:
    import results

    own = dict(word.split("=", 1) for word in args)
    kills, folder = int(own.get("kills", 100)), ROOT / "out/benchmarks/crash"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    steps = int(own.get("steps", 40 * kills))
    began = time.time()
    told = kill_repeatedly(
        folder,
        [*TINY_ARGS, f"train.steps={steps}", "train.save_every=7", f"train.eval_every={steps // 4}"],
        kills,
        int(own.get("seed", 0)),
    )
    text = (
        f"{kills} kills over one run of {steps:,} steps ({', '.join(f'{count} {moment}' for moment, count in told['moments'].items())}),"
        f" in {time.time() - began:,.0f} s: {told['lost']} checkpoints lost; bit for bit the same as undisturbed:"
        f" {', '.join(told['same']) or 'nothing'}; not the same: {', '.join(told['other']) or 'nothing'}."
    )
    print(text)
    results.write_section("Killed again and again", " ".join(["python benchmarks/crash.py", *args]), text)
    sys.exit(bool(told["lost"] or told["other"]))


if __name__ == "__main__":
    main(sys.argv[1:])
