"""Permits to ask the ledger, fewer than the server has threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import LedgerUnavailableError


class Permits:
    """``most`` requests at a time may ask the ledger; others wait up to ``wait_s`` seconds.

    A database that hangs would otherwise hold every thread, and the server could not even say so. Once one
    request has waited in vain, the next ones don't wait, until a permit is given back.
    """

    def __init__(self, most: int, wait_s: float) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._wait_s = wait_s
        self._is_stuck = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a permit during the block. Raises LedgerUnavailableError where none comes free."""
        if not self._free.acquire(timeout=0 if self._is_stuck else self._wait_s):
            self._is_stuck = True
            raise LedgerUnavailableError("all requests that may ask the ledger at a time are waiting for it")
        try:
            yield
        finally:
            self._is_stuck = False
            self._free.release()
