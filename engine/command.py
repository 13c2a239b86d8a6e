"""A command line: words to a configuration, a user's mistake to one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from engine.config import Schema, load
from engine.errors import UserError
from engine.explain import usage

# Set before torch is loaded: spinning threads make a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def configuration(schema: type[Schema], words: list[str], module: str, example: str) -> Schema | None:
    """The configuration that the words describe; None after printing the help they ask for."""
    if not words or {"-h", "--help"} & set(words):
        print(usage(schema, module, example))
        return None
    return load(schema, words)


def command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words and leave with 0, 2 (the user's mistake) or 130 (interrupted)."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        # Every process of a distributed run meets the same mistake; one of them tells it.
        if os.environ.get("RANK", "0") == "0":
            print(f"{error}", file=sys.stderr)
        leave(2)
    except BrokenPipeError:
        # Whoever reads our output has seen enough; nothing is to be flushed to them at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(0)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        leave(130)
    leave(0)


def leave(code: int) -> None:
    """End the process. With several, skip the interpreter's teardown: gloo's threads can abort there (pytorch#190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
    sys.exit(code)
