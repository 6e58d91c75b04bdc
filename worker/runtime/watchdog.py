"""Deadlines for waits that no time-out of a library ends.

The kernel of a stopped process still acknowledges what is sent to it, so keep-alives and TCP's own time-outs
see a living server. A thread checks every wait that is under way and shuts the socket of one that is overdue:
the call that waits then fails like any lost connection.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Self
from weakref import WeakSet

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.25


class Wait:
    """Waits of one connection, one at a time; a context manager while one is under way.

    ``shut`` ends the wait from another thread. ``timeout_s`` bounds each wait.
    """

    def __init__(self, shut: Callable[[], None], timeout_s: float) -> None:
        self._shut, self._timeout_s = shut, timeout_s
        self.began: float | None = None
        self.is_overdue = False

    def __enter__(self) -> Self:
        self.began = monotonic()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.began = None

    def end_if_overdue(self, now: float, most_s: float | None) -> None:
        """End the wait where it is overdue at ``now``; ``most_s`` is a shorter bound for all waits."""
        began = self.began
        timeout_s = self._timeout_s if most_s is None else min(self._timeout_s, most_s)
        if began is None or now - began <= timeout_s or self.is_overdue:
            return
        self.is_overdue = True
        with suppress(Exception):  # closed meanwhile, as each library says it; the watch goes on
            self._shut()


class Watchdog:
    """A thread that ends overdue waits; started with the first one, it lives as long as the process."""

    def __init__(self) -> None:
        self._waits: WeakSet[Wait] = WeakSet()
        self._lock = threading.Lock()
        self._most_s: float | None = None
        self._thread: threading.Thread | None = None

    def watch(self, wait: Wait) -> None:
        """Watch ``wait`` as long as somebody references it."""
        with self._lock:
            self._waits.add(wait)
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def hurry(self, most_s: float) -> None:
        """Bound every wait, also those under way, by ``most_s`` seconds, because the process is to end."""
        self._most_s = most_s

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_CHECK_EVERY_S):
            with self._lock:
                waits = list(self._waits)
            now = monotonic()
            for wait in waits:
                wait.end_if_overdue(now, self._most_s)


def shut_socket(descriptor: int) -> None:
    """Shut the socket with this file descriptor both ways; a call that waits for it sees its end."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
