"""Loops beside a main loop end together."""

from threading import Event, current_thread

import pytest

from tests.support.waiting import PATIENCE_S
from worker.runtime.stop import SignalStop
from worker.runtime.threads import beside


def until_stopped(stop: SignalStop) -> None:
    stop.wait(PATIENCE_S)


def test_loops_run_in_threads_of_their_names_and_end_with_the_block() -> None:
    stop, names, began = SignalStop(), list[str](), Event()

    def loop(stop: SignalStop) -> None:
        names.append(current_thread().name)
        began.set()
        until_stopped(stop)

    with beside(stop, drainer=loop):
        assert began.wait(PATIENCE_S)
        assert not stop.requested
    assert stop.requested
    assert [name.partition("_")[0] for name in names] == ["drainer"]


def test_error_of_a_loop_ends_the_block_and_is_raised() -> None:
    def fail(_: SignalStop) -> None:
        raise ZeroDivisionError("a bug")

    stop = SignalStop()
    with pytest.raises(ZeroDivisionError), beside(stop, scheduler=fail, drainer=until_stopped):
        until_stopped(stop)


def test_loop_that_ends_by_itself_ends_the_others() -> None:
    stop = SignalStop()
    with beside(stop, scheduler=lambda _: None, drainer=until_stopped):
        until_stopped(stop)
    assert stop.requested


def test_block_without_loops_leaves_the_stop_alone() -> None:
    stop = SignalStop()
    with beside(stop):
        pass
    assert not stop.requested
