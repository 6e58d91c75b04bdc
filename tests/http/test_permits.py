"""Permits: a few threads wait for one, and none waits while nothing moves."""

import threading
from contextlib import ExitStack
from time import monotonic

import pytest

from tests.support.waiting import eventually
from worker.http.permits import NoPermitError, Permits, Shares, ShareUsedError


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


def test_as_many_may_wait_as_there_are_places() -> None:
    permits, is_inside = Permits(1, 30, waiting=1), threading.Event()

    def ask() -> None:
        with permits.one():
            is_inside.set()

    with permits.one():
        waiting = threading.Thread(target=ask)
        waiting.start()
        eventually(lambda: _is_refused(permits))
        assert not is_inside.is_set()
    waiting.join(30)
    assert is_inside.is_set()


def _is_refused(permits: Permits) -> bool:
    began = monotonic()
    try:
        with permits.one():
            return False
    except NoPermitError:
        return monotonic() - began < 1


def test_each_holder_has_a_share() -> None:
    shares = Shares(2)
    with shares.one("vic"), shares.one("vic"):
        with pytest.raises(ShareUsedError), shares.one("vic"):
            pass
        with shares.one("ann"):
            pass
    with pytest.raises(ZeroDivisionError), shares.one("vic"):
        raise ZeroDivisionError
    with shares.one("vic"), shares.one("vic"):
        pass
    assert not shares.holders
