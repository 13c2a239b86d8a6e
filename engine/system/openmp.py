"""Choose how OpenMP threads wait for work, in the environment and before torch is loaded.

Spinning threads make a training step up to 25 % faster but slow down other processes: two such trainings are each three
times slower than two with sleeping threads (docs/lab-notebook). So threads spin, for at most a millisecond, only if the
machine is idle, no other training spins, and the user has not set otherwise.
"""

import os
import socket

USER_VARS = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "WORLD_SIZE"}
"""If one is set, the user shares the machine deliberately or starts several processes."""
SPIN_COUNT = "20000"
MAX_CPU_PERCENT = 15  # CPU usage over 0.1 s below which the machine is idle
CLAIM_ADDRESS = f"\0headstart-spinning-{os.getuid()}"
"""Address of a socket, which one process of a machine can hold at a time and which is no file."""
held_claims: list[socket.socket] = []  # keeps the spinning training's claim until the process ends


def claim_spinning() -> bool:
    """Claim the right to spin, which one training per user and machine can have; return whether that worked."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(CLAIM_ADDRESS)
    except OSError:
        claim.close()
        return False
    held_claims.append(claim)
    return True


def set_wait_policy(training: bool) -> None:
    """Set the wait policy of this process and its children, unless the user has set one."""
    import psutil  # `--help` does not need it

    user_set = USER_VARS & os.environ.keys()
    if training and not user_set and psutil.cpu_percent(0.1) < MAX_CPU_PERCENT and claim_spinning():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    else:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def passive_env() -> dict[str, str]:
    """Return an environment without spinning, for a child process that runs during training."""
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return env | {"OMP_WAIT_POLICY": "PASSIVE"}
