"""Asked to stop: SIGTERM (a scheduler, a shutdown) or SIGINT (a person at the keyboard) ends a training after the step at
hand, its checkpoint saved. A second one of the same kind does what it always did.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import CommandExit

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Which signal has come, if any."""

    signal: signal.Signals | None = None


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Within it the signals are noted. Only a process's main thread can listen; in another nothing is noted."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: object) -> None:
        asked.signal = signal.Signals(number)
        signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])


def exit_on_signal(stop_request: StopRequest, message: str) -> None:
    """Raises Leave with the exit code that a shell gives a process which the signal ended: 143 or 130.

    A process that was not asked itself goes as another was.
    """
    raise CommandExit(message, 128 + (stop_request.signal or signal.SIGTERM))
