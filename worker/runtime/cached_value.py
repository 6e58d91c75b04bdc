"""Cached values of slow or unreliable sources, fetched in threads so that nobody waits for long."""

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

#: Seconds between two fetches, for each second that the last one took.
_PAUSE_FACTOR = 30
#: Age up to which a successful probe counts.
_PROBED_S = 10.0


@dataclass(frozen=True, slots=True)
class Unknown:
    """Unknown value, with the reason; never a zero."""

    why: str


@dataclass(frozen=True, slots=True)
class KnownValue(Generic[T]):
    """Known value, with its time."""

    value: T
    at: datetime


class CachedValue(Generic[T]):
    """Result of ``fetch``, at most ``max_age_s`` old where a fetch takes less than ``timeout_s``.

    One thread at a time fetches, for any number of pages; a slow value is fetched less often: it pauses
    ``pause_factor`` times as long as the fetch took. After ``timeout_s`` the earlier value is returned with
    its time, or Unknown without one. With ``serve_stale`` an earlier value is returned at once while a fetch
    runs. ``name`` is the subject of the error texts.
    """

    def __init__(
        self,
        fetch: Callable[[], T],
        *,
        name: str,
        max_age_s: float,
        timeout_s: float,
        clock: Callable[[], datetime],
        serve_stale: bool = False,
        pause_factor: float = _PAUSE_FACTOR,
    ) -> None:
        self._fetch = fetch
        self._name = name
        self._max_age_s, self._timeout_s, self._pause_factor = max_age_s, timeout_s, pause_factor
        self._took_s = 0.0
        self._serve_stale = serve_stale
        self._clock = clock
        self._lock = threading.Lock()
        self._running: Future[KnownValue[T] | Unknown] | None = None
        self._latest: KnownValue[T] | Unknown | None = None
        self._fetched_at = float("-inf")

    def get(self) -> KnownValue[T] | Unknown:
        """Return the newest value, or Unknown."""
        with self._lock:
            max_age_s = max(self._max_age_s, self._pause_factor * self._took_s)
            if self._latest is not None and monotonic() - self._fetched_at < max_age_s:
                return self._latest
            if self._running is None:
                self._running = Future()
                threading.Thread(
                    target=self._run, args=(self._running,), name=self._name, daemon=True
                ).start()
            if self._serve_stale and isinstance(self._latest, KnownValue):
                return self._latest
            running = self._running
        try:
            return running.result(self._timeout_s)
        except FutureTimeoutError:
            pass
        with self._lock:
            if isinstance(self._latest, KnownValue):
                return self._latest
        return Unknown(f"{self._name} takes longer: reload in a moment")

    def _run(self, running: "Future[KnownValue[T] | Unknown]") -> None:
        latest: KnownValue[T] | Unknown
        began = monotonic()
        try:
            latest = KnownValue(self._fetch(), self._clock())
        except BillingError as error:
            latest = Unknown(str(error))
        except Exception as error:  # noqa: BLE001 - a page is shown after any fault; the text names it
            latest = Unknown(f"{self._name} failed: {type(error).__name__}")
        with self._lock:
            self._latest, self._fetched_at, self._running = latest, monotonic(), None
            self._took_s = self._fetched_at - began
        running.set_result(latest)


def probe_text(value: KnownValue[None] | Unknown, now: datetime) -> str | None:
    """Return the reason why a probed server can't be used; None where it can.

    A success that is not followed by another one for some seconds counts no more: the server hangs.
    """
    if isinstance(value, Unknown):
        return value.why
    age_s = (now - value.at).total_seconds()
    return None if age_s <= _PROBED_S else f"no answer of the server for {age_s:.0f} s"
