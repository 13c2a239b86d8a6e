"""Choose how OpenMP threads wait for work, in the environment and before torch is loaded.

Spinning threads make a training step up to 25 % faster but slow down other processes: two such trainings are each three
times slower than two with sleeping threads (docs/lab-notebook). So threads spin, for at most a millisecond, only if the
machine is idle, no other training spins, and the user has not set otherwise.
"""

import os
import tempfile
from pathlib import Path

from engine.errors import ConfigError

USER_VARS = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "WORLD_SIZE"}
"""If one is set, the user shares the machine deliberately or starts several processes."""
SPIN_COUNT = "20000"
MAX_CPU_PERCENT = 15  # CPU usage over 0.1 s below which the machine is idle
held_locks: list[object] = []  # keeps the spinning training's lock until the process ends


def claim_spinning() -> bool:
    """Claim the right to spin, which one training per user and machine can have; return whether that worked."""
    from engine.system import lock  # as psutil below: `--help` needs neither

    folder = Path(tempfile.gettempdir()) / f"headstart-spinning-{os.getuid()}"
    try:
        folder.mkdir(exist_ok=True)
        held_locks.append(lock.acquire(folder))
    except (ConfigError, OSError):
        return False
    return True


def set_wait_policy(training: bool) -> None:
    """Set the wait policy of this process and its children, unless the user has set one."""
    import psutil

    user_set = USER_VARS & os.environ.keys()
    if training and not user_set and psutil.cpu_percent(0.1) < MAX_CPU_PERCENT and claim_spinning():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    else:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def passive_env() -> dict[str, str]:
    """Return an environment without spinning, for a child process that runs during training."""
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return env | {"OMP_WAIT_POLICY": "PASSIVE"}
