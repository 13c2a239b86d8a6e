"""Mistakes a user can make, told in one line each, and the wrapper that turns them into exit code 2."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can put right. Its text is all they are shown: no traceback."""


class ConfigError(UserError):
    """A key, value or file name in the configuration is wrong."""


class DataError(UserError):
    """The configuration is sound, but the text, labels or weights it points to are not."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (nearest: X)`, or all that there is when few enough and nothing is near, or nothing."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if close:
        return f" (nearest: {close[0]})"
    return f" (there are: {', '.join(known)})" if 0 < len(known) <= 12 else ""


def command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words and leave with 0, 2 (the user's mistake) or 130 (interrupted)."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        # Every process of a distributed run meets the same mistake; one of them tells it.
        if os.environ.get("RANK", "0") == "0":
            print(f"{error}", file=sys.stderr)
        leave(2)
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
