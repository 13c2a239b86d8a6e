"""Command line: parse arguments to a configuration, and report a user's mistake in one line with exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from engine.config.help import help_text
from engine.config.loader import load_config
from engine.config.schema import Schema
from engine.errors import CommandExit, UserError
from engine.files import is_disk_full
from engine.system import openmp

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def parse_config(schema: type[Schema], args: list[str], module: str, example: str) -> Schema | None:
    """Load the configuration from arguments, or print the help and return None."""
    if not args or {"-h", "--help"} & set(args):
        print(help_text(schema, module, example))
        return None
    trains = "train" in schema.model_fields
    openmp.set_wait_policy(trains)
    return load_config(schema, ["train.dry_run=true" if trains and arg == "--dry-run" else arg for arg in args])


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` and exit with 0, 1 (crash), 2 (the user's mistake), 130 or 143 (stopped by a signal)."""
    try:
        main(sys.argv[1:])
    except CommandExit as stop:
        print_once(str(stop), sys.stderr if stop.exit_code else sys.stdout)
        exit_process(stop.exit_code)
    except UserError as error:
        print_once(str(error))
        exit_process(2)
    except BrokenPipeError:
        # The reader of our output closed the pipe: do not flush anything to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_process(0)
    except KeyboardInterrupt:
        print_once("\nStopped. Rerun the command to resume.")
        exit_process(130)
    except OSError as error:
        if not is_disk_full(error):
            report_crash()
        file = error.filename or "out"
        print_once(f"{file}: the disk is full ({error.strerror}). Free some space and rerun the command to resume.")
        exit_process(2)
    except Exception:
        report_crash()
    exit_process(0)


def report_crash() -> None:
    """Print the traceback of a bug and exit."""
    print_once(traceback.format_exc().rstrip())
    exit_process(1)


def print_once(message: str, stream: TextIO | None = None) -> None:
    """Print the final message of a command; of several processes only the first, as the others fail in consequence."""
    if message and is_first_to_report():
        print(message, file=stream or sys.stderr, flush=True)


def is_first_to_report() -> bool:
    """Return whether no other process has reported yet; before initialization, all fail alike and rank 0 reports."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            try:
                return dist.distributed_c10d._get_default_store().add("headstart/reported", 1) == 1
            except Exception:  # the process with the store is gone: it was the first to fail
                return False
    return os.environ.get("RANK", "0") == "0"


def exit_process(exit_code: int) -> None:
    """End the process; with several, without teardown, in which gloo's threads can abort (pytorch#190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(exit_code)
    sys.exit(exit_code)
