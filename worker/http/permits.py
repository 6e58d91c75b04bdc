"""Permits for work that at most so many threads may do at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NoPermitError(Exception):
    """No permit came free in time."""


class Permits:
    """``most`` threads at a time may hold a permit; others wait up to ``wait_s`` seconds.

    Once one has waited in vain, the next ones don't wait, until a permit is given back: a server whose
    threads all wait can't even say so.
    """

    def __init__(self, most: int, wait_s: float) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._wait_s = wait_s
        self._is_stuck = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a permit during the block. Raises NoPermitError where none comes free."""
        if not self._free.acquire(timeout=0 if self._is_stuck else self._wait_s):
            self._is_stuck = True
            raise NoPermitError
        try:
            yield
        finally:
            self._is_stuck = False
            self._free.release()
