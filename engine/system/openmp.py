"""How a process's threads wait for each other: told to OpenMP by its environment, so before torch is loaded.

A step is some thousand pieces of work dealt out to all threads. Threads that keep looking for the next piece make it a
quarter faster, and take the processor from whatever else wants it: two such processes on one machine are each three times
slower than two whose threads sleep (LOG.md). So they look, a millisecond at most, where a training finds the machine idle,
no other training awake, and nobody has said otherwise.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TextIO

import psutil

from engine.errors import ConfigError
from engine.system import lock

USER_VARS = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "WORLD_SIZE"}
"""Whoever has set one of these knows of others on the machine, or is several processes."""
SPIN_COUNT = "20000"
MAX_CPU_PERCENT = 15  # per cent of the processors in use, over a tenth of a second
held_locks: list[TextIO] = []  # the lock of the one training that is awake, to the end of its process


def claim_spinning() -> bool:
    """Whether no other training of this person is awake on this machine, which from now on none will be."""
    folder = Path(tempfile.gettempdir()) / f"headstart-awake-{os.getuid()}"
    try:
        folder.mkdir(exist_ok=True)
        held_locks.append(lock.acquire(folder))
    except (ConfigError, OSError):
        return False
    return True


def set_wait_policy(training: bool) -> None:
    """Set it for this process and those it starts; what a person has set stays."""
    if (
        training
        and not USER_VARS & os.environ.keys()
        and psutil.cpu_percent(0.1) < MAX_CPU_PERCENT
        and claim_spinning()
    ):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    else:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def passive_env() -> dict[str, str]:
    """The environment for a process that works beside this one."""
    return {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | {
        "OMP_WAIT_POLICY": "PASSIVE"
    }
