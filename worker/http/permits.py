"""Permits for work that at most so many threads may do at a time, and shares of them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class NoPermitError(Exception):
    """No permit came free in time."""


class ShareUsedError(Exception):
    """A holder has as much in work as one may."""


class Permits:
    """``most`` threads at a time may hold a permit; others wait up to ``wait_s`` seconds.

    Once one has waited in vain, the next ones don't wait, until a permit is given back: a server whose
    threads all wait can't even say so. For the same reason at most ``waiting`` wait, where that is given.
    """

    def __init__(self, most: int, wait_s: float, *, waiting: int | None = None) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._places = None if waiting is None else threading.BoundedSemaphore(waiting)
        self._wait_s = wait_s
        self._is_stuck = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a permit during the block. Raises NoPermitError where none comes free."""
        if not self._free.acquire(blocking=False) and not self._wait():
            raise NoPermitError
        try:
            yield
        finally:
            self._is_stuck = False
            self._free.release()

    def _wait(self) -> bool:
        if self._is_stuck or not (self._places is None or self._places.acquire(blocking=False)):
            return False
        try:
            got = self._free.acquire(timeout=self._wait_s)
            if not got:
                self._is_stuck = True
            return got
        finally:
            if self._places is not None:
                self._places.release()


class Shares:
    """Each holder may have ``each`` blocks in work at a time, and doesn't wait for more."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @property
    def holders(self) -> frozenset[str]:
        """Holders with a block in work."""
        with self._lock:
            return frozenset(self._held)

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """Count a block of ``holder``. Raises ShareUsedError where they have as many as one may."""
        with self._lock:
            if self._held[holder] >= self._each:
                raise ShareUsedError
            self._held[holder] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[holder] -= 1
                if not self._held[holder]:
                    del self._held[holder]
