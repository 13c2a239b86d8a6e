"""Run commands in forks of a process that has imported their libraries, which takes seven CPU seconds each time.

A fork has its own folder, environment, output and exit code, like a new process. It differs in what is decided when
Python or a library starts: variables that are read by an import, the order of sets, and how long that takes. At its end
it joins its threads, runs what is registered with atexit and flushes its output, but does not delete all objects: that
would copy the memory that it shares with the server, in two CPU seconds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path

PRELOADED = (
    "torch.distributed accelerate datasets peft scipy.stats sklearn.linear_model matplotlib.figure transformers"
    " transformers.models.bert.modeling_bert pretrain.train pretrain.evaluate.embeddings finetune.train"
    " finetune.study.run data.corpus.build publish.hub.upload engine.models.load_check explore.run predict.run"
    " pretrain.pairs pretrain.views pretrain.validation sklearn.feature_extraction.text sklearn.neighbors ftfy ray"
).split()


class Fork:
    """A command that runs in a fork; `poll` and `wait` return its exit code as those of subprocess.Popen do."""

    def __init__(self, args: list[str], cwd: Path | None, env: dict[str, str]):
        self.args, self.folder, self.returncode = args, tempfile.TemporaryDirectory(), None
        files = [f"{self.folder.name}/stdout", f"{self.folder.name}/stderr"]
        self.stdout, self.stderr = map(Path, files)
        self.pid = request(args=args, cwd=str(cwd or Path.cwd()), env=env, files=files)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = request(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            left = deadline - time.monotonic()
            if left < 0:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.args, timeout, self.stdout.read_text(), self.stderr.read_text())
            pause_until_end(self.pid, left)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def complete(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Wait for the end and return the result, with the output as text."""
        self.wait(timeout)
        return subprocess.CompletedProcess(self.args, self.returncode, self.stdout.read_text(), self.stderr.read_text())


def pause_until_end(pid: int, seconds: float) -> None:
    """Wait until a process ends, at most these seconds; without Linux, a moment."""
    if not hasattr(os, "pidfd_open"):
        time.sleep(0.02)
        return
    end = os.pidfd_open(pid)  # is readable when the process has ended
    try:
        select.select([end], [], [], seconds)
    finally:
        os.close(end)


def request(**values) -> int | None:
    """Send a request to the server and return its answer."""
    server = start_server()
    server.stdin.write(json.dumps(values) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@cache
def start_server() -> subprocess.Popen:
    """Start the process that forks; it ends with this one, which closes its input."""
    folder = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{folder.parent}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    """Answer requests, lines of JSON: the process of a new command, or the exit code of one, null while it runs."""
    from helpers import check_in_this_process

    from engine.models import verify

    for name in PRELOADED:
        importlib.import_module(name)
    fill_caches()
    verify.run_load_check = check_in_this_process
    inherited = set(os.environ)
    gc.freeze()  # a collection in a fork leaves the shared memory alone
    while line := sys.stdin.readline():
        values = json.loads(line)
        if pid := values.get("poll"):
            ended, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            prepare(values, inherited)
            leave(run_command(values["args"]))
        print(json.dumps(answer), flush=True)


def fill_caches() -> None:
    """Do what a library does once in each process: compile templates and patterns, and find the fonts of charts."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from engine.charts import Line, line_chart
    from engine.html import ROOT, environment

    get_checkpoint_conversion_mapping("bert")
    line_chart("loss", [Line("one", [(0, 1.0), (5, 2.0)]), Line("two", [(0, 2.0), (5, 1.0)])])
    for path in ROOT.glob("[a-z]*/**/*.j2"):
        environment(".html" in path.name).get_template(str(path.relative_to(ROOT)))


def prepare(command: dict, inherited: set[str]) -> None:
    """Take the files, the folder and the environment of a command."""
    for number, file in enumerate((os.devnull, *command["files"])):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(command["cwd"])
    for name in inherited - command["env"].keys():
        os.environ.pop(name, None)
    os.environ.update(command["env"])
    random.seed()


def run_command(args: list[str]) -> int:
    """Run a module (-m), code (-c) or a script; return the exit code as Python does, with the error on stderr."""
    first, *rest = args
    target = rest.pop(0) if first in ("-m", "-c") else first
    sys.argv = ["-c" if first == "-c" else target, *rest]
    folder = "" if first in ("-m", "-c") else str(Path(target).parent.absolute())
    sys.path = [folder, *(path for path in sys.path if path != str(Path(__file__).parent))]
    try:
        if first == "-m":
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif first == "-c":
            exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(target, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> None:
    """End this process with an exit code, or by the signal -`code`."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    serve()
