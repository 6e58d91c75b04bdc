"""Permits: a few threads wait for one, and none waits while nothing moves."""

import threading
from contextlib import ExitStack
from time import monotonic

import pytest

from worker.http.permits import NoPermitError, Permits


def test_as_many_may_work_as_there_are_permits() -> None:
    permits = Permits(2, 0.01)
    with permits.one(), permits.one(), pytest.raises(NoPermitError), permits.one():
        pass


def test_permit_comes_back_after_a_fault() -> None:
    permits = Permits(1, 0.01)
    with pytest.raises(ZeroDivisionError), permits.one():
        raise ZeroDivisionError
    with permits.one():
        pass


def test_thread_waits_for_a_permit() -> None:
    permits = Permits(1, 30)
    got = threading.Event()

    def ask() -> None:
        with permits.one():
            got.set()

    with permits.one():
        waiting = threading.Thread(target=ask)
        waiting.start()
    assert got.wait(30)
    waiting.join()


def test_only_the_first_waits_while_none_comes_back() -> None:
    permits = Permits(1, 0.2)
    with ExitStack() as held:
        held.enter_context(permits.one())
        with pytest.raises(NoPermitError), permits.one():
            pass
        began = monotonic()
        for _ in range(50):
            with pytest.raises(NoPermitError), permits.one():
                pass
        assert monotonic() - began < 0.2
    with permits.one(), ExitStack() as waits:
        began = monotonic()
        with pytest.raises(NoPermitError):
            waits.enter_context(permits.one())
        assert monotonic() - began >= 0.2
