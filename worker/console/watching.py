"""Slow or unreliable values, fetched in a thread of their own so that no page waits for them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Generic, TypeVar

from worker.errors import BillingError

T = TypeVar("T")

#: Seconds of rest after a fetch, for each second that it took.
_REST = 30


@dataclass(frozen=True, slots=True)
class Unknown:
    """An unknown value, with the reason; never a zero."""

    why: str


@dataclass(frozen=True, slots=True)
class TimedValue(Generic[T]):
    """A value, with the time as of which it holds."""

    value: T
    at: datetime


class Watched(Generic[T]):
    """The answer of ``ask``, not older than ``keep_s`` seconds where it comes within ``wait_s``.

    Only one thread asks at a time, however many pages want the value, and a slow value is asked for less
    often: it rests ``rest`` seconds for each second that it took. Where the answer takes longer than
    ``wait_s``, the earlier one holds with its time; without one the value is Unknown for now. With
    ``is_old_fine`` nobody waits as long as there is an earlier one.
    """

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        what: str,
        keep_s: float,
        wait_s: float,
        clock: Callable[[], datetime],
        is_old_fine: bool = False,
        rest: float = _REST,
    ) -> None:
        self._ask = ask
        self._what = what
        self._keep_s, self._wait_s, self._rest = keep_s, wait_s, rest
        self._took_s = 0.0
        self._is_old_fine = is_old_fine
        self._clock = clock
        self._lock = threading.Lock()
        self._running: Future[TimedValue[T] | Unknown] | None = None
        self._latest: TimedValue[T] | Unknown | None = None
        self._got_at = float("-inf")

    def get(self) -> TimedValue[T] | Unknown:
        """Return the newest answer, or Unknown."""
        with self._lock:
            keep_s = max(self._keep_s, self._rest * self._took_s)
            if self._latest is not None and monotonic() - self._got_at < keep_s:
                return self._latest
            if self._running is None:
                self._running = Future()
                threading.Thread(
                    target=self._run, args=(self._running,), name=self._what, daemon=True
                ).start()
            if self._is_old_fine and isinstance(self._latest, TimedValue):
                return self._latest
            running = self._running
        try:
            return running.result(self._wait_s)
        except FutureTimeoutError:
            pass
        with self._lock:
            if isinstance(self._latest, TimedValue):
                return self._latest
        return Unknown(f"{self._what} takes longer; look again in a moment")

    def _run(self, running: "Future[TimedValue[T] | Unknown]") -> None:
        answer: TimedValue[T] | Unknown
        began = monotonic()
        try:
            answer = TimedValue(self._ask(), self._clock())
        except BillingError as error:
            answer = Unknown(str(error))
        except Exception as error:  # noqa: BLE001 - a page must come whatever happens; the text says what did
            answer = Unknown(f"{self._what} failed: {type(error).__name__}")
        with self._lock:
            self._latest, self._got_at, self._running = answer, monotonic(), None
            self._took_s = self._got_at - began
        running.set_result(answer)
