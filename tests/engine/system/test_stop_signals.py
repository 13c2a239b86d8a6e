"""The signals that stop a run."""

import signal

import pytest

from engine.system import stop_signals


def test_a_signal_that_arrives_twice_at_once_is_one_and_a_later_one_acts_as_usual(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with stop_signals.catch_signals() as request:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert request.signal is signal.SIGINT
        monkeypatch.setattr(stop_signals, "SAME_SIGNAL_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
