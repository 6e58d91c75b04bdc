"""Stops by signals, in a process of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import PATIENCE_S
from worker.runtime.stop import SignalStop

_LOOP = """
import os, threading
from worker.runtime.stop import SignalStop
SignalStop.GRACE_S = {grace_s}
stop, requested = SignalStop(), threading.Event()
stop.on_request(lambda: (os.write(1, b"requested\\n"), requested.set()))
stop.install()
os.write(1, b"ready\\n")
while not stop.requested:
    stop.wait(60)
requested.wait()
{after}
os.write(1, b"ended\\n")
"""
_HANG = "os.write(1, b'hanging\\n'); threading.Event().wait()"


@contextmanager
def loop(*, grace_s: float = 60.0, after: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Run a loop that ends at its stop, in a process that is ready for signals."""
    code = _LOOP.format(grace_s=grace_s, after=after)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert line(process) == "ready"
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_first_signal_ends_the_loop_at_once() -> None:
    with loop() as process:
        process.send_signal(signal.SIGTERM)
        assert [line(process), line(process)] == ["requested", "ended"]
        assert process.wait(PATIENCE_S) == 0


def test_second_signal_ends_a_process_that_hangs() -> None:
    with loop(after=_HANG) as process:
        process.send_signal(signal.SIGINT)
        assert [line(process), line(process)] == ["requested", "hanging"]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGINT


def test_process_that_hangs_ends_after_its_grace() -> None:
    with loop(grace_s=0.1, after=_HANG) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_wait_ends_after_its_seconds_or_soon_after_the_stop() -> None:
    slept = list[float]()
    stop = SignalStop(seconds=lambda: sum(slept), sleep=slept.append)
    stop.wait(1.25)
    assert sum(slept) == pytest.approx(1.25)
    assert max(slept) <= 0.1
    stop.end()
    slept.clear()
    stop.wait(1_000)
    assert slept == []


def test_late_listener_is_called_at_once() -> None:
    stop, called = SignalStop(), list[int]()
    stop.end()
    stop.on_request(lambda: called.append(os.getpid()))
    assert len(called) == 1
