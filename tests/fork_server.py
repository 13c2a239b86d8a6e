"""Run commands in forks of a process that has imported their libraries, which takes seven CPU seconds each time.

A fork has its own folder, environment, output and exit code, like a new process. It differs in what is decided when
Python or a library starts: variables that are read by an import, the order of sets, and how long that takes.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

PRELOADED = (
    "torch.distributed accelerate datasets peft scipy.stats sklearn.linear_model matplotlib.figure transformers"
    " transformers.models.bert.modeling_bert pretrain.train pretrain.evaluate.embeddings finetune.train"
    " finetune.study.run data.corpus.build publish.hub.upload engine.models.load_check"
).split()


def run_fork(args: list[str], cwd: Path | None, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
    """Run `python ARGS...` in a fork, with the output of `subprocess.run(..., capture_output=True, text=True)`."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/stdout", f"{folder}/stderr"]
        server = start_server()
        request = {"args": args, "cwd": str(cwd or Path.cwd()), "env": env, "files": files, "timeout": timeout}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        exit_code = json.loads(server.stdout.readline())
        stdout, stderr = (Path(file).read_text() for file in files)
    if exit_code is None:
        raise subprocess.TimeoutExpired(args, timeout, stdout, stderr)
    return subprocess.CompletedProcess(args, exit_code, stdout, stderr)


@cache
def start_server() -> subprocess.Popen:
    """Start the process that forks; it ends with this one, which closes its input."""
    folder = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{folder.parent}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    """Fork for each request, a line of JSON; answer with its exit code, or null after its timeout."""
    from helpers import check_in_this_process

    from engine.models import verify

    for name in PRELOADED:
        importlib.import_module(name)
    verify.run_load_check = check_in_this_process
    inherited = set(os.environ)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            run_request(request, inherited)
        print(json.dumps(wait(pid, request["timeout"])), flush=True)


def wait(pid: int, timeout: float) -> int | None:
    """Return the exit code of a child, as `subprocess` does; after the timeout, kill it and return None."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def run_request(request: dict, inherited: set[str]) -> None:
    """Run a module (-m), code (-c) or a script, and exit."""
    for number, file in enumerate((os.devnull, *request["files"])):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(request["cwd"])
    for name in inherited - request["env"].keys():
        os.environ.pop(name, None)
    os.environ.update(request["env"])
    random.seed()
    first, *rest = request["args"]
    target = rest.pop(0) if first in ("-m", "-c") else first
    sys.argv = [target, *rest]
    sys.path = ["" if first in ("-m", "-c") else str(Path(target).parent.absolute()), *sys.path]
    if first == "-m":
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    elif first == "-c":
        exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(target, run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    serve()
