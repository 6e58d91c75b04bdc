"""Replays in the console's process: started once, stopped in order, problems shown."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.console.run_threads import ReplayThreads
from worker.errors import BillingError


class FakeApplication:
    """Application whose replays call ``run`` until they are stopped."""

    def __init__(self, run: Callable[..., None] | None = None) -> None:
        self.started: list[int] = []
        self.names: set[str | None] = set()
        self.ended = threading.Event()
        self._run = run

    def replayer(self, name: str | None = None) -> "FakeApplication":
        self.names.add(name)
        return self

    def run(self, number: int, _actor: str, *, stop: Any, **more: Any) -> None:
        self.started.append(number)
        if self._run is not None:
            self._run(stop=stop, **more)
        while not stop.requested:
            stop.wait(10)
        self.ended.set()


def threads(application: FakeApplication) -> ReplayThreads:
    return ReplayThreads(cast(Application, application))


def test_replay_started_three_times_runs_once() -> None:
    application = FakeApplication()
    running = threads(application)
    for _ in range(3):
        running.start(7, "ann")
    running.start(8, "ann")
    eventually(lambda: sorted(application.started) == [7, 8])
    assert len(application.names) == 2
    assert running.is_running(7)
    running.stop()
    assert application.ended.is_set()
    eventually(lambda: not running.is_running(7))


def test_problem_of_a_replay_is_shown_until_it_continues() -> None:
    go = threading.Event()

    def run(*, on_trouble: Callable[[str], None], on_progress: Callable[[Any], None], **_: Any) -> None:
        on_trouble("the broker is away")
        go.wait(30)
        on_progress(None)

    running = threads(FakeApplication(run))
    running.start(1, "ann")
    eventually(lambda: running.problems == {1: "the broker is away"})
    go.set()
    eventually(lambda: not running.problems)
    running.stop()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (BillingError("somebody else runs it"), "somebody else runs it"),
        (ZeroDivisionError(), "ended by a fault"),
    ],
)
def test_ended_replay_keeps_its_error(fault: Exception, text: str) -> None:
    def run(**_: Any) -> None:
        raise fault

    running = threads(FakeApplication(run))
    running.start(1, "ann")
    eventually(lambda: not running.is_running(1))
    assert text in running.problems[1]
