"""A command line: words to a configuration, a user's mistake to one line and exit code 2."""

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
    """The configuration that the words describe; None after printing the help they ask for."""
    if not args or {"-h", "--help"} & set(args):
        print(help_text(schema, module, example))
        return None
    looks = "train" in schema.model_fields
    openmp.set_wait_policy(looks)
    return load_config(schema, ["train.dry_run=true" if looks and word == "--dry-run" else word for word in args])


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words and leave: with 0, 2 (the user's mistake), 1 (ours), 130 or 143 (stopped)."""
    try:
        main(sys.argv[1:])
    except CommandExit as left:
        print_once(str(left), sys.stderr if left.exit_code else sys.stdout)
        exit_process(left.exit_code)
    except UserError as error:
        print_once(str(error))
        exit_process(2)
    except BrokenPipeError:
        # Whoever reads our output has seen enough; nothing is to be flushed to them at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_process(0)
    except KeyboardInterrupt:
        print_once("\nStopped. The same command goes on from what is finished.")
        exit_process(130)
    except OSError as error:
        if not is_disk_full(error):
            report_crash()
        print_once(
            f"{error.filename or 'out'}: the disk is full ({error.strerror}). Make room; the same command goes on."
        )
        exit_process(2)
    except Exception:
        report_crash()
    exit_process(0)


def report_crash() -> None:
    """Tell of a mistake of ours, as Python does, and leave."""
    print_once(traceback.format_exc().rstrip())
    exit_process(1)


def print_once(message: str, stream: TextIO | None = None) -> None:
    """Print what a command ends with. Of several processes the first to fail tells; the others fail because it did."""
    if message and is_first_to_report():
        print(message, file=stream or sys.stderr, flush=True)


def is_first_to_report() -> bool:
    """Whether no other process of a distributed run has told yet. Before they have met, all meet the same mistake: rank 0."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            try:
                return dist.distributed_c10d._get_default_store().add("headstart/told", 1) == 1
            except Exception:  # the store went with the process that kept it, which was then the first to fail
                return False
    return os.environ.get("RANK", "0") == "0"


def exit_process(exit_code: int) -> None:
    """End the process. With several, skip the interpreter's teardown: gloo's threads can abort there (pytorch#190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(exit_code)
    sys.exit(exit_code)
