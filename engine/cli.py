"""Command line: parse arguments to a configuration, and report a user's mistake in one line with exit code 2."""

import faulthandler
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TextIO, get_origin

from engine.config.help import get_section_type, help_text
from engine.config.loader import load_config, read_args
from engine.config.schema import Schema, Section
from engine.errors import CommandExit, UserError, first_line
from engine.files import describe_os_error
from engine.sanitize import printable
from engine.system import garbage_collection, openmp

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# torch.compile runs code from this folder; its default is in /tmp, where other users could have made it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/torchinductor"))


def parse_config(
    schema: type[Schema], args: list[str], module: str, example: str, positional: str | None = None
) -> Schema | None:
    """Load the configuration from arguments, or print the help, whole or of one section, and return None.

    positional: key of an argument that is neither a YAML file nor `key=value` nor a flag; of all of them for a list.
    """
    plain = [arg for arg in args if not arg.startswith("-") and ("=" in arg or arg.endswith((".yaml", ".yml")))]
    schema = schema.choose_schema(read_args(plain))
    if not args or asks_for_help(args):
        section = args[1] if len(args) == 2 and args[1].isidentifier() else None
        print(help_text(schema, module, example, section))
        return None
    openmp.set_wait_policy("train" in schema.model_fields)
    return load_config(schema, flags_to_keys(schema, args, positional))


def asks_for_help(args: list[str]) -> bool:
    """Return whether the arguments of a command ask for its help."""
    return not {"-h", "--help"}.isdisjoint(args)


def flags_to_keys(schema: type[Section], args: list[str], positional: str | None = None) -> list[str]:
    """Rewrite `--key value`, `--key=value`, `--switch` and positional arguments as `key=value`.

    All others stay as they are, for `load_config` to read or to reject.
    """
    keys, values, remaining = [], [], list(args)
    is_list = positional is not None and get_origin(schema.model_fields[positional].annotation) is list
    while remaining:
        arg = remaining.pop(0)
        if arg.startswith("--"):
            key, equals, value = arg[2:].partition("=")
            key = key.replace("-", "_")
            if key == "dry_run" and "train" in schema.model_fields:
                key = "train.dry_run"
            if not equals and is_switch(schema, key) and remaining[:1] not in (["true"], ["false"]):
                keys.append(f"{key}=true")
            elif equals or remaining:
                keys.append(f"{key}={value if equals else remaining.pop(0)}")
            else:
                keys.append(arg)
        elif "=" in arg or arg.endswith((".yaml", ".yml")) or positional is None or (values and not is_list):
            keys.append(arg)
        else:
            values.append("'" + arg.replace("'", "''") + "'")
    if values:
        keys.append(f"{positional}={'[' + ', '.join(values) + ']' if is_list else values[0]}")
    return keys


def is_switch(schema: type[Section], key: str) -> bool:
    """Return whether a dotted key is true or false, so that its flag needs no value."""
    name, _, rest = key.partition(".")
    annotation = schema.model_fields[name].annotation if name in schema.model_fields else None
    section = get_section_type(annotation)
    return is_switch(section, rest) if rest and section else not rest and annotation is bool


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` and exit with 0, 1 (crash), 2 (the user's mistake), 130 or 143 (stopped by a signal)."""
    garbage_collection.defer()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a character must not end a run
    if sys.__stderr__ and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a crash of native code prints where each thread was
    interrupts = count_interrupts()
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
        exit_stopped()
    except Exception as error:
        if interrupts:  # a library has made another error of it, as safetensors does while it reads a file
            exit_stopped()
        message = describe_os_error(error)
        if isinstance(error, MemoryError):
            message = f"out of memory ({first_line(error)}); choose smaller numbers, such as train.batch_size"
        if not message:
            report_crash()
        print_once(message)
        exit_process(2)
    exit_process(0)


def count_interrupts() -> list[int]:
    """Return a list to which each SIGINT is appended from now on, before it is raised as KeyboardInterrupt."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return received


def exit_stopped() -> None:
    """Exit after a SIGINT."""
    print_once("\nStopped. Rerun the command to resume.")
    exit_process(130)


def report_crash() -> None:
    """Print the traceback of a bug and exit."""
    print_once(traceback.format_exc().rstrip())
    exit_process(1)


def print_once(message: str, stream: TextIO | None = None) -> None:
    """Print the final message of a command; of several processes only the first, as the others fail in consequence."""
    if message and is_first_to_report():
        print(printable(message), file=stream or sys.stderr, flush=True)


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
    garbage_collection.skip_at_exit()
    sys.exit(exit_code)
