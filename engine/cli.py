"""A command line: words to a configuration, a user's mistake to one line and exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO, get_origin

from engine.config.help import get_section_type, help_text
from engine.config.loader import load_config
from engine.config.schema import Schema, Section
from engine.errors import CommandExit, UserError
from engine.files import is_disk_full
from engine.system import openmp

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def parse_config(
    schema: type[Schema], args: list[str], module: str, example: str, positional: str | None = None
) -> Schema | None:
    """Load the configuration that the arguments describe; print the help and return None if they ask for it.

    Args:
        schema: Type of the configuration.
        args: YAML files, `key=value` words and `--key value` flags.
        module: What `python -m` runs, for the help.
        example: Arguments shown in the help.
        positional: Key of an argument that is none of these; if the key holds a list, of all such arguments.
    """
    if not args or {"-h", "--help"} & set(args):
        print(help_text(schema, module, example))
        return None
    openmp.set_wait_policy("train" in schema.model_fields)
    return load_config(schema, flags_to_keys(schema, args, positional))


def flags_to_keys(schema: type[Section], args: list[str], positional: str | None = None) -> list[str]:
    """Rewrite `--key value`, `--key=value`, `--switch` and positional arguments as `key=value`.

    What is left over stays as it is: `load_config` reports it.
    """
    keys, values, remaining = [], [], list(args)
    is_list = positional is not None and get_origin(schema.model_fields[positional].annotation) is list
    while remaining:
        word = remaining.pop(0)
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            if key == "dry_run" and "train" in schema.model_fields:
                key = "train.dry_run"
            if is_switch(schema, key) and not equals and remaining[:1] not in (["true"], ["false"]):
                keys.append(f"{key}=true")
            elif equals or remaining:
                keys.append(f"{key}={value if equals else remaining.pop(0)}")
            else:
                keys.append(word)
        elif "=" in word or word.endswith((".yaml", ".yml")) or positional is None or (values and not is_list):
            keys.append(word)
        else:
            values.append("'" + word.replace("'", "''") + "'")
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
