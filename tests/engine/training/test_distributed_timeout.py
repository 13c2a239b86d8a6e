"""A process that hangs during training ends the others within the limit, which preparation does not have."""

from __future__ import annotations

import subprocess
import sys

from helpers import environment

WORKER = """
import sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from engine.training.distributed import limit_waiting
rank = int(sys.argv[1])
store = dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
def wait_for_the_other(seconds):
    time.sleep(seconds * rank)
    dist.all_reduce(torch.ones(1))
wait_for_the_other(3)
print("prepared", flush=True)
start = time.monotonic()
try:
    with limit_waiting(timedelta(seconds=1)):
        wait_for_the_other(0)
        wait_for_the_other(5)
except RuntimeError:
    print("gave up" if time.monotonic() - start < 4 or rank else "waited", flush=True)
"""


def test_a_process_that_hangs_ends_the_others(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py")]
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment(), "cwd": tmp_path}
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path / "store")], **options) for rank in range(2)]
    outputs = [worker.communicate(timeout=60)[0].split("\n") for worker in workers]
    assert outputs[0][:2] == ["prepared", "gave up"] and outputs[1][0] == "prepared"
