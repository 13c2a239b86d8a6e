"""A command line: words to a configuration, a user's mistake to one line and exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from engine import waiting
from engine.config import Schema, load
from engine.errors import Leave, UserError
from engine.explain import usage
from engine.files import is_full

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def configuration(schema: type[Schema], words: list[str], module: str, example: str) -> Schema | None:
    """The configuration that the words describe; None after printing the help they ask for."""
    if not words or {"-h", "--help"} & set(words):
        print(usage(schema, module, example))
        return None
    looks = "train" in schema.model_fields
    waiting.choose(looks)
    return load(schema, ["train.check=true" if looks and word == "--check" else word for word in words])


def command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words and leave: with 0, 2 (the user's mistake), 1 (ours), 130 or 143 (stopped)."""
    try:
        main(sys.argv[1:])
    except Leave as left:
        tell(str(left), sys.stderr if left.code else sys.stdout)
        leave(left.code)
    except UserError as error:
        tell(str(error))
        leave(2)
    except BrokenPipeError:
        # Whoever reads our output has seen enough; nothing is to be flushed to them at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(0)
    except KeyboardInterrupt:
        tell("\nStopped. The same command goes on from what is finished.")
        leave(130)
    except OSError as error:
        if not is_full(error):
            failed()
        tell(f"{error.filename or 'out'}: the disk is full ({error.strerror}). Make room; the same command goes on.")
        leave(2)
    except Exception:
        failed()
    leave(0)


def failed() -> None:
    """Tell of a mistake of ours, as Python does, and leave."""
    tell(traceback.format_exc().rstrip())
    leave(1)


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print what a command ends with. Of several processes the first to fail tells; the others fail because it did."""
    if text and is_first():
        print(text, file=stream or sys.stderr, flush=True)


def is_first() -> bool:
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


def leave(code: int) -> None:
    """End the process. With several, skip the interpreter's teardown: gloo's threads can abort there (pytorch#190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
    sys.exit(code)
