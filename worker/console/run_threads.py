"""Replays and reverse runs that this process executes, each in a thread of its own.

The runners are the command line's: every step is stored before it is taken. A run whose console was killed
can be resumed anywhere.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from worker.bootstrap import Application
from worker.errors import BillingError
from worker.reversing import store
from worker.reversing.run import ReverseControls, Reversing
from worker.runtime.identity import runner_name

log = logging.getLogger(__name__)

_STOP_S = 15.0


class ThreadStop:
    """Stop request for a loop in a thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        """True from the moment the loop shall end."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop shall end."""
        self._event.wait(seconds)

    def end(self) -> None:
        """End the loop."""
        self._event.set()


class RunThreads(ABC):
    """Starts stored runs in threads and keeps their problems."""

    noun: ClassVar[str]

    def __init__(self, application: Application) -> None:
        self.application = application
        self._lock = threading.Lock()
        self._running: dict[int, tuple[threading.Thread, ThreadStop]] = {}
        self._problems: dict[int, str] = {}

    @property
    def problems(self) -> Mapping[int, str]:
        """Reason why a run waits or ended, by its number; only for runs of this process."""
        with self._lock:
            return dict(self._problems)

    def is_running(self, number: int) -> bool:
        """Return True while this process executes the run."""
        with self._lock:
            return number in self._running

    def start(self, number: int, actor: str) -> None:
        """Start a run; nothing changes where this process executes it already."""
        with self._lock:
            if number in self._running:
                return
            stop = ThreadStop()
            thread = threading.Thread(
                target=self._run, args=(number, actor, stop), name=f"{self.noun}-{number}", daemon=True
            )
            self._running[number] = (thread, stop)
            self._problems.pop(number, None)
            thread.start()

    def stop(self) -> None:
        """Pause all runs, and wait until they are paused."""
        with self._lock:
            running = list(self._running.values())
        for _, stop in running:
            stop.end()
        for thread, _ in running:
            thread.join(_STOP_S)

    def _run(self, number: int, actor: str, stop: ThreadStop) -> None:
        try:
            self.work(number, actor, stop)
        except BillingError as error:
            self._set_problem(number, str(error))
        except Exception as error:
            log.exception("%s %d ended by a fault; it can be resumed", self.noun, number)
            self._set_problem(
                number, f"ended by a fault ({type(error).__name__}, see the console's log); resume it"
            )
        finally:
            with self._lock:
                self._running.pop(number, None)

    @abstractmethod
    def work(self, number: int, actor: str, stop: ThreadStop) -> None:
        """Execute a run to its end, or until the stop."""

    def _set_problem(self, number: int, problem: str | None) -> None:
        with self._lock:
            if problem is None:
                self._problems.pop(number, None)
            else:
                self._problems[number] = problem


class ReplayThreads(RunThreads):
    """Starts replays in threads."""

    noun = "replay"

    def work(self, number: int, actor: str, stop: ThreadStop) -> None:
        """Run a replay to its end, or until the stop."""
        self.application.replayer(name=runner_name("console")).run(
            number,
            actor,
            stop=stop,
            on_progress=lambda _: self._set_problem(number, None),
            on_trouble=lambda text: self._set_problem(number, text),
        )


class ReverseThreads(RunThreads):
    """Starts runs that reverse charges in threads."""

    noun = "reverse run"

    def work(self, number: int, actor: str, stop: ThreadStop) -> None:
        """Execute a run to its end, or until the stop."""
        resources = self.application.reverse_resources()
        run = store.get(resources.engine, number)
        controls = ReverseControls(
            stop,
            on_progress=lambda _: self._set_problem(number, None),
            on_trouble=lambda text: self._set_problem(number, text),
        )
        Reversing(resources, run, controls).to_its_end()
