"""Notifications to the service manager (systemd's ``sd_notify``), where one has asked for them.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from time import monotonic

from worker.runtime.process_health import ProcessHealth
from worker.runtime.stop import StopRequest

log = logging.getLogger(__name__)

_SOCKET, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_USEC = 1_000_000
#: Extra time for the start that is asked for, and how often: an outage at the start is waited out.
_START_S, _EXTEND_EVERY_S = 60.0, 10.0
_LOOK_EVERY_S = 0.5


class ServiceManager:
    """Sender of notifications to the socket at ``address``; without an address it sends none.

    ``watchdog_s`` is the time within which the service manager wants a sign of life; None: it wants none.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address, self.watchdog_s = address, watchdog_s
        self._has_failed = False

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> "ServiceManager":
        """Return the service manager of this process, and take it out of ``environment``.

        A child that found it there would speak for the whole service.
        """
        address = environment.pop(_SOCKET, "")
        watchdog, pid = environment.pop(_WATCHDOG, ""), environment.pop(_WATCHDOG_PID, "")
        if not address:
            return cls()
        if not address.startswith(("/", "@")):
            log.warning("%s has a form that is not known: the service manager is told nothing", _SOCKET)
            return cls()
        is_ours = not pid or pid == str(os.getpid())
        return cls(address, int(watchdog) / _USEC if is_ours and watchdog.isdigit() else None)

    def send(self, *lines: str) -> None:
        """Send a notification; one that fails is logged once and stops nothing."""
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # noqa: FBT003 - the method's own
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._has_failed:
                log.warning("the service manager can't be told anything: %s", error.strerror or error)
            self._has_failed = True
        else:
            self._has_failed = False


class ServiceReport:
    """Report to the service manager: ready once, the status when it changes, and signs of life.

    They come at half of the time that it wants them in, and only while all processes are live.
    """

    def __init__(self, manager: ServiceManager, *, seconds: Callable[[], float] = monotonic) -> None:
        self._manager, self._seconds = manager, seconds
        self._every_s = None if manager.watchdog_s is None else manager.watchdog_s / 2
        self._is_ready = False
        self._status: str | None = None
        self._alive_at: float | None = None
        self._extended_at: float | None = None

    def update(self, obstacles: Sequence[str], *, is_live: bool) -> None:
        """Report the present state; ``obstacles`` are the reasons why not all of it works."""
        lines = [*self._readiness(obstacles, is_live=is_live), *self._status_of(obstacles)]
        now = self._seconds()
        is_due = self._alive_at is None or (
            self._every_s is not None and now - self._alive_at >= self._every_s
        )
        if is_live and is_due and self._every_s is not None:
            self._alive_at = now
            lines.append("WATCHDOG=1")
        if lines:
            self._manager.send(*lines)

    def stopping(self) -> None:
        """Report the begin of the end."""
        self._manager.send("STOPPING=1", "STATUS=stopping: the batch under way is finished")

    def _readiness(self, obstacles: Sequence[str], *, is_live: bool) -> Iterator[str]:
        now = self._seconds()
        if self._is_ready or not is_live:
            return
        if not obstacles:
            self._is_ready = True
            yield "READY=1"
        elif self._extended_at is None or now - self._extended_at >= _EXTEND_EVERY_S:
            self._extended_at = now
            yield f"EXTEND_TIMEOUT_USEC={int(_START_S * _USEC)}"

    def _status_of(self, obstacles: Sequence[str]) -> Iterator[str]:
        status = "; ".join(obstacles).replace("\n", " ") or "works"
        if status != self._status:
            self._status = status
            yield f"STATUS={status}"


@contextmanager
def reported(
    manager: ServiceManager, health: ProcessHealth, stop: StopRequest | None = None
) -> Iterator[None]:
    """Report the health of this one process to the service manager, from a thread, during the block."""
    report, ended = ServiceReport(manager), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S) and not (stop is not None and stop.requested):
            report.update(health.obstacles(), is_live=health.is_live)
        report.stopping()

    thread = threading.Thread(target=look, name="service manager", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
