"""SIGTERM or SIGINT stops training after the current step, with a checkpoint; a later second signal acts as usual."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import CommandExit

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL_SECONDS = 1.0
"""Time in which a repeated signal is the same one: a scheduler signals all processes, and torchrun passes it on."""


class StopRequest:
    """The signal received, if any."""

    signal: signal.Signals | None = None


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Record signals inside the context. Only a process's main thread can; other threads record nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous, received = {number: signal.getsignal(number) for number in SIGNALS}, {}

    def record(number: int, frame: object) -> None:
        now, request.signal = time.monotonic(), signal.Signals(number)
        if now - received.setdefault(number, now) > SAME_SIGNAL_SECONDS:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, record)
    try:
        yield request
    finally:
        for number in SIGNALS:
            signal.signal(number, previous[number])


def exit_on_signal(stop_request: StopRequest, message: str) -> None:
    """Raise CommandExit with a shell's exit code for the signal, 143 or 130; 143 if another process received it."""
    raise CommandExit(message, 128 + (stop_request.signal or signal.SIGTERM))
