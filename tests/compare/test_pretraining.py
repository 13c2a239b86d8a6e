"""One training: its seconds, warnings and failures, and the process that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from compare import pretraining
from compare.pretraining import Pretraining, StepTimer
from engine.errors import DataError
from engine.runs.background import run_child
from engine.system.lock import acquire

TREE = {"objective": {"name": "mlm"}, "train": {"lr": 1e-3}}


def test_the_timer_counts_cpu_seconds_between_steps_and_not_sleep_or_evaluations(tmp_path):
    script = """
import json, sys, time
def work(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds: pass
for step in range(1, 7):
    time.sleep(0.1)  # no work
    work(0.05 if step < 6 else 0.4)
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"step": 10 * step} | ({"eval": {}} if step == 6 else {})) + "\\n")
    print(time.process_time(), flush=True)
time.sleep(0.3)
"""
    timer = StepTimer(tmp_path / "log.jsonl")
    process = subprocess.Popen([sys.executable, "-c", script, str(timer.log)], stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        timer.update(process)
        time.sleep(0.005)
    own = [float(line) for line in process.stdout]
    assert timer.steps == 40, "from the first entry to the last without an evaluation"
    assert timer.seconds == pytest.approx(own[4] - own[0], abs=0.06) and timer.seconds < 0.4


def fake_training(steps_per_second: float, warnings: str = "", exit_code: int = 0, reason: str = ""):
    """Return a stand-in of run_child that writes a log for simulated CPU seconds, and the calls it got."""
    calls = []

    def run(args: list[str], env: dict, output, watch) -> int:
        tree = {key: json.loads(value) for key, value in (arg.split("=", 1) for arg in args[1:])}
        calls.append(tree)
        folder, train = Path("out/runs") / tree["run"], tree["train"]
        folder.mkdir(parents=True, exist_ok=True)
        killed = []
        for step in range(train["log_every"], min(train["steps"], 2_000) + 1, train["log_every"]):
            entry = {"step": step} | ({"eval": {}} if step == train["steps"] else {})
            with open(folder / "log.jsonl", "a") as file:
                file.write(json.dumps(entry) + "\n")
            run.seconds = step / steps_per_second
            watch(SimpleNamespace(pid=os.getpid(), kill=lambda: killed.append(1)))
            if killed:
                return -9
        output.write(f"{warnings}\n{reason}\n".encode())
        if not exit_code:
            (folder / "encoder").mkdir()
            (folder / "step-000001").mkdir()
        return exit_code

    return run, calls


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """Let trainings take simulated CPU seconds."""
    monkeypatch.chdir(tmp_path)

    def simulate(*args, **options):
        run, calls = fake_training(*args, **options)
        process = lambda pid: SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=run.seconds, system=3.0))  # noqa: E731
        monkeypatch.setattr(pretraining, "run_child", run)
        monkeypatch.setattr(pretraining, "psutil", SimpleNamespace(Process=process, Error=OSError))
        return calls

    return simulate


def make(name: str = "mlm", budget: float | None = 100.0, tree: dict = TREE) -> Pretraining:
    return Pretraining(Path("out/comparisons/mine"), name, tree, budget)


def test_the_steps_spend_the_budget_and_the_seconds_are_recorded(simulate):
    calls = simulate(4.0, warnings="warning: the embeddings collapse\nwarning: the embeddings collapse\nbuilt x")
    training = make()
    training.train()
    speed, whole = calls
    assert speed["train"]["log_every"] == 1 and speed["head_only_fraction"] == 0.0
    assert whole["train"] == {"lr": 1e-3, "steps": 400, "eval_every": 400, "save_every": 40, "log_every": 8}
    assert whole["run"] == training.run and not (Path("out/runs") / training.run).exists(), "not the newest encoder"
    assert training.encoder.is_dir() and not any(training.folder.glob("step-*"))
    assert not any(Path("out/runs").iterdir()), "nor is what the speed was measured on"
    saved = json.loads(training.record_path.read_text())
    assert saved["seconds_per_step"] == pytest.approx(0.25) and saved["steps"] == 400 and saved["cpu_seconds"] == 100.0
    assert saved["warnings"] == ["warning: the embeddings collapse"]


def test_a_finished_training_is_not_repeated_and_another_budget_is_another_training(simulate):
    calls = simulate(4.0)
    make().train()
    make().train()
    assert len(calls) == 2 and make().record["steps"] == 400
    assert make(budget=50.0).run != make().run == make().run
    assert make(tree=TREE | {"seed": 1}).run != make().run


def test_a_stopped_training_is_resumed_without_measuring_again(simulate):
    """What an attempt that did not finish has spent is part of the seconds."""
    calls = simulate(4.0, exit_code=143)
    with pytest.raises(DataError):
        make().train()
    calls = simulate(2.0)  # the machine is now busy: half the speed
    make().train()
    assert [tree["train"]["steps"] for tree in calls] == [400]
    record = make().record
    assert [attempt["steps"] for attempt in record["attempts"]] == [384, 384] and record["cpu_seconds"] == 150.0


def test_a_failed_training_gives_its_last_line_and_leaves_no_result(simulate):
    simulate(4.0, exit_code=2, reason="train.lr: too large")
    with pytest.raises(DataError, match="^train.lr: too large$"):
        make().train()
    simulate(4.0, exit_code=1, reason="RuntimeError: out of luck")
    with pytest.raises(DataError, match=r"^RuntimeError: out of luck \(exit code 1\)$"):
        make().train()
    assert not make().encoder.exists()


def test_a_start_takes_the_steps_of_its_configuration(simulate):
    calls = simulate(4.0)
    training = make("start vit", None, TREE | {"train": {"steps": 1, "lr": 1e-30}})
    training.train()
    assert [tree["train"]["steps"] for tree in calls] == [1] and " " not in training.run
    assert training.record["cpu_seconds"] == 0


def test_a_training_waits_for_one_that_still_saves_its_last_checkpoint(tmp_path, monkeypatch):
    script = "import sys, time\nfrom pathlib import Path\nfrom engine.system.lock import acquire\n"
    script += "lock = acquire(Path(sys.argv[1]))\nprint('locked', flush=True)\ntime.sleep(1)\n"
    root = str(Path(pretraining.__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    process.stdout.readline()
    pretraining.wait_for_lock(tmp_path)
    assert process.wait(10) == 0
    acquire(tmp_path).release()
    pretraining.wait_for_lock(tmp_path / "none")


def test_a_child_writes_its_output_to_a_file_and_is_watched(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text("import sys, time\nprint('out')\nprint('err', file=sys.stderr)\ntime.sleep(1)\n")
    monkeypatch.chdir(tmp_path)
    seen = []
    with open("log", "ab") as file:
        assert run_child(["noisy"], dict(os.environ), file, lambda process: seen.append(process.pid)) == 0
    assert sorted(Path("log").read_text().split()) == ["err", "out"] and len(set(seen)) == 1 < len(seen)
