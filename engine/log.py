"""Messages to the person at the terminal: standard logging, printed by the first process alone.

A module logs with `logger = get_logger(__name__)`. Information goes to standard output and warnings to standard error,
as they are, without a prefix. `logging.getLogger("headstart")` is the parent of all loggers.
"""

import logging
import os
import sys

from engine.sanitize import printable


class ConsoleHandler(logging.Handler):
    """Prints the records of the process with rank 0."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. An error of the output, such as a closed pipe, ends the command."""
        if os.environ.get("RANK", "0") == "0":
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            print(printable(self.format(record)), file=stream, flush=True)


def get_logger(module: str) -> logging.Logger:
    """Return the logger of a module."""
    parent = logging.getLogger("headstart")
    if not parent.handlers:
        parent.addHandler(ConsoleHandler())
        parent.setLevel(logging.INFO)
        parent.propagate = False
    return parent.getChild(module)


warned: set[str] = set()
"""What `warn_once` has warned of in this process."""


def warn_once(message: str, about: str | None = None) -> None:
    """Log a warning, once per process however often the same data is read.

    about: names the problem, of which later messages with other numbers are left out; None: the message itself.
    """
    if (about or message) not in warned:
        warned.add(about or message)
        get_logger(__name__).warning(message)
