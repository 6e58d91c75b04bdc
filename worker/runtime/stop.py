"""Requests to stop: the protocols that loops know, and the request that signals make."""

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

log = logging.getLogger(__name__)

_POLL_S = 0.1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest(Protocol):
    """Request to end a loop, made while it runs."""

    @property
    def requested(self) -> bool:
        """True as soon as the loop is to end."""
        ...


class Stop(StopRequest, Protocol):
    """Stop request with a wait that it ends."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop is to end."""
        ...


class SignalStop:
    """Ends the loop on the first SIGTERM or SIGINT; the second one ends the process at once.

    Python runs its handlers between two steps of the main thread, which may be waiting inside the database's
    client for an answer that doesn't come. A thread of its own receives the signals too, and ends the process
    at the second signal, or ``GRACE_S`` seconds after the first. What is not acknowledged then is delivered
    again.
    """

    GRACE_S = 25.0

    def __init__(
        self,
        *,
        seconds: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.requested = False
        self._seconds, self._sleep = seconds, sleep
        self._on_request: list[Callable[[], None]] = []

    def on_request(self, call: Callable[[], None]) -> None:
        """Call ``call`` at the first signal, in the thread that receives it: the main one may be waiting."""
        self._on_request.append(call)
        if self.requested:
            call()

    def install(self) -> None:
        """Take the signals of this process; from its main thread."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, args=(reading,), name="signals", daemon=True).start()

    def end(self) -> None:
        """End the loop without a signal."""
        self.requested = True

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until a signal."""
        deadline = self._seconds() + seconds
        while not self.requested and (left := deadline - self._seconds()) > 0:
            self._sleep(min(left, _POLL_S))

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    def _listen(self, reading: int) -> None:
        """Receive signals; others that have a handler, such as SIGHUP, come by the same pipe."""
        while (number := os.read(reading, 1)[0]) not in _STOP_SIGNALS:
            pass
        for call in self._on_request:
            call()
        deadline = time.monotonic() + self.GRACE_S
        while select.select([reading], [], [], max(deadline - time.monotonic(), 0))[0]:
            if os.read(reading, 1)[0] in _STOP_SIGNALS:
                break
        else:
            log.error("not stopped within %.0f s of the signal: ending", self.GRACE_S)
        os._exit(128 + number)
