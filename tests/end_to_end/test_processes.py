"""Several processes, really started: sharded weights, another number of them on resume, workers that die, two hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import ROOT, TINY_ARGS, environment, run_module
from safetensors.torch import load_file

from engine.training import distributed

# A worker in which something happens at a step: HAPPENS is "RANK STEP WHAT", and only before the first restart.
WORKER = """
import os, signal, sys
rank, at, what = os.environ.get("HAPPENS", "- 0 -").split()
import engine.loop
before = engine.training.trainer.learning_rate
def rate(step, steps, train):
    if os.environ.get("RANK", "0") == rank and step == int(at) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if what == "fails":
            raise RuntimeError("the first thing that went wrong")
        open(f"happened-{what}", "w").close()
        os.kill(os.getpid(), getattr(signal, what))
    return before(step, steps, train)
engine.training.trainer.learning_rate = rate
from engine.command import command
from pretrain.__main__ import main
command(main)
"""
STEPS = 8


@pytest.fixture(scope="module")
def place(sentiment_files, tmp_path_factory) -> Path:
    """A folder to run in, its shards made, and in out/runs/whole what one undisturbed process makes of them."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "worker.py").write_text(WORKER)
    done = run_module("worker.py", *words(sentiment_files, "run=whole"), prefix=(sys.executable,), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def words(sentiment_files: Path, *more: str) -> list[str]:
    return [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        "corpus.name=tiny",
        "corpus.held_out=0.1",
        "train.optimizer=adamw",
        f"corpus.sources=[{{files: '{sentiment_files}/corpus.txt'}}]",
        f"train.steps={STEPS}",
        "train.save_every=2",
        "train.log_every=1",
        "train.eval_every=4",
        *more,
    ]


def launched(
    place: Path,
    sentiment_files: Path,
    *more: str,
    processes: int = 2,
    restarts: int = 0,
    happens: str = "- 0 -",
    **options,
) -> subprocess.CompletedProcess:
    """The worker under torchrun."""
    prefix = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--max_restarts",
        str(restarts),
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        "127.0.0.1:0",
        "--monitor_interval",
        "0.3",
    )
    return run_module("worker.py", *words(sentiment_files, *more), prefix=prefix, cwd=place, HAPPENS=happens, **options)


def furthest(place: Path, name: str) -> float:
    """How far the run's weights are from the undisturbed one's."""
    own, other = (load_file(place / f"out/runs/{each}/encoder/model.safetensors") for each in ("whole", name))
    assert own.keys() == other.keys()
    return max((own[key] - other[key]).abs().max().item() for key in own)


def losses(place: Path, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (place / f"out/runs/{name}/log.jsonl").read_text().splitlines()]


def test_sharded_weights_are_those_of_one_process_and_go_on_in_another_number_of_them(place, sentiment_files):
    stopped = launched(place, sentiment_files, "run=sharded", "train.sharded=true", happens="1 4 SIGTERM")
    assert "stopped after step" in stopped.stderr and stopped.returncode != 0, stopped.stderr
    kept = sorted((place / "out/runs/sharded").glob("step-*"))
    assert kept and all(list(path.glob("shard-*.safetensors")) and not list(path.glob("*.distcp")) for path in kept)
    # One process, whole weights, from what two sharded ones wrote.
    done = run_module("worker.py", *words(sentiment_files, "run=sharded"), prefix=(sys.executable,), cwd=place)
    assert done.returncode == 0, done.stderr
    assert furthest(place, "sharded") < 1e-5
    assert losses(place, "sharded") == pytest.approx(losses(place, "whole"), abs=1e-5)


@pytest.mark.slow
def test_begun_by_one_process_and_ended_by_two_with_a_share_each(place, sentiment_files):
    done = run_module(
        "worker.py", *words(sentiment_files, "run=begun"), prefix=(sys.executable,), cwd=place, HAPPENS="0 5 SIGTERM"
    )
    assert done.returncode == 143 and "stopped after step 6 of 8, saved" in done.stderr, done.stderr
    done = launched(place, sentiment_files, "run=begun", "train.sharded=true", "train.micro_batch_size=2")
    assert done.returncode == 0, done.stderr
    assert furthest(place, "begun") < 1e-5


def test_a_killed_worker_is_started_again_and_nothing_shows_of_it(place, sentiment_files):
    done = launched(place, sentiment_files, "run=elastic", restarts=2, happens="1 5 SIGKILL")
    assert done.returncode == 0, done.stderr
    assert (place / "happened-SIGKILL").is_file()
    assert "failed to connect" not in done.stderr, "nobody looks for those that were before"
    assert furthest(place, "elastic") < 1e-5
    assert losses(place, "elastic") == pytest.approx(losses(place, "whole"), abs=1e-5)


def test_one_that_fails_ends_all_and_is_told_once(place, sentiment_files):
    began = time.time()
    done = launched(place, sentiment_files, "run=failed", happens="1 3 fails")
    assert done.returncode != 0 and time.time() - began < 60
    assert done.stderr.count("RuntimeError: the first thing that went wrong") == 1, done.stderr
    assert "Connection closed" not in done.stderr and done.stderr.count("Traceback (most recent call last)") <= 2, (
        done.stderr
    )
    assert not (place / "out/runs/failed/encoder").exists()


def test_processes_meet_under_a_name_of_their_own_whoever_was_there_before():
    """Three generations in one store; in the later ones rank 0 comes last, so that the others read a dead one's name first."""
    import torch.distributed

    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = []

    def come(rank: int, found: dict[int, str]) -> None:
        store = torch.distributed.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
        found[rank] = distributed.agree_on_store_prefix(store, rank, 3)

    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        found: dict[int, str] = {}
        threads = [threading.Thread(target=come, args=(rank, found)) for rank in order]
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join(20)
        assert len(found) == 3 and len(set(found.values())) == 1
        names.append(found[0])
    assert len(set(names)) == 3


HOSTS = ("hs-one", "hs-two")


def has_namespaces() -> bool:
    """Whether this machine lets us make network namespaces."""
    if not shutil.which("ip"):
        return False
    made = subprocess.run(["ip", "netns", "add", "hs-try"], capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "del", "hs-try"], capture_output=True)
    return made


@pytest.fixture
def hosts():
    """Two network namespaces with an address each, joined by a wire."""

    def ip(*given: str) -> None:
        subprocess.run(["ip", *given], check=True, capture_output=True)

    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], capture_output=True)
        ip("netns", "add", host)
    ip("link", "add", "hs-wire0", "netns", HOSTS[0], "type", "veth", "peer", "name", "hs-wire1", "netns", HOSTS[1])
    for number, host in enumerate(HOSTS):
        ip("-n", host, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"hs-wire{number}")
        ip("-n", host, "link", "set", f"hs-wire{number}", "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield HOSTS
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="network namespaces cannot be made here (no ip, or not allowed)")
def test_two_hosts_end_as_one(place, sentiment_files, hosts):
    """Hosts are namespaces with addresses of their own; they share the folder out/, as machines share a file system."""
    started = [
        subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                host,
                str(ROOT / "configs/launch/several-machines.sh"),
                *words(sentiment_files, "run=hosts"),
            ],
            cwd=place,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                MACHINES="2",
                MACHINE=str(number),
                HEAD="10.77.0.1:29511",
                ADDRESS=f"10.77.0.{number + 1}",
                PYTHON=sys.executable,
                PROGRAM="worker.py",
                GLOO_SOCKET_IFNAME=f"hs-wire{number}",
                HAPPENS="1 5 SIGKILL",
            ),
        )
        for number, host in enumerate(hosts)
    ]
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    assert furthest(place, "hosts") < 1e-5
