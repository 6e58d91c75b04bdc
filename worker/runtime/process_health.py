"""Health of this process: its loop turns, and nothing keeps it from its work.

Liveness never depends on a server: a restart mends no outage, and a storm of restarts makes one longer.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import get_ident
from time import monotonic

from worker.runtime.stop import Stop

#: Time without a turn of the loop after which a process counts as stuck.
LIVE_S = 60.0
#: Bytes by which a supervised process reports a turn: it works, or an obstacle is in its way.
WORKS, WAITS = b"+", b"."
_REPORT_EVERY_S = 1.0
_SLICE_S = 1.0

#: Reason why a process can't do its work now; None where it can. It must not wait for anything.
Obstacle = Callable[[], str | None]


class ProcessHealth:
    """Turns of the main loop, and obstacles to its work.

    ``live_s`` is the longest time between two turns. Before the first obstacle is known the process starts.
    """

    def __init__(self, live_s: float = LIVE_S, *, seconds: Callable[[], float] = monotonic) -> None:
        self.live_s = live_s
        self._seconds = seconds
        self._turned_at = seconds()
        self._obstacles: list[Obstacle] = []
        self._probes: list[Obstacle] = []
        self._report: int | None = None
        self._reported_at: float | None = None

    # -- turns --------------------------------------------------------------------------------------------

    def turned(self) -> None:
        """Note a turn of the loop; report it to the supervisor, at most once a second."""
        now = self._turned_at = self._seconds()
        if self._report is None:
            return
        if self._reported_at is None or now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            with suppress(OSError):  # the supervisor is stopped and reads nothing, or is gone
                os.write(self._report, WAITS if self.obstacles() else WORKS)

    def report_to(self, descriptor: int) -> None:
        """Report turns into this pipe from now on."""
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the function's own
        self._report = descriptor

    def watched(self, stop: Stop) -> Stop:
        """Return ``stop`` for the main loop: each look at it is a turn."""
        return WatchedStop(stop, self.turned)

    @property
    def is_live(self) -> bool:
        """True while the loop turns."""
        return self._seconds() - self._turned_at <= self.live_s

    # -- obstacles ----------------------------------------------------------------------------------------

    def add_obstacle(self, obstacle: Obstacle) -> None:
        """Ask ``obstacle`` whenever somebody wants to know."""
        self._obstacles.append(obstacle)

    def add_probe(self, probe: Obstacle) -> None:
        """Ask ``probe`` as well where somebody may wait some seconds for it."""
        self._probes.append(probe)

    def obstacles(self, *, probed: bool = False) -> Sequence[str]:
        """Return the obstacles, none where the process works; with ``probed``, of the servers too."""
        if not self._obstacles:
            return ["it is starting"]
        asked = [*self._obstacles, *(self._probes if probed else ())]
        return [text for obstacle in asked if (text := obstacle()) is not None]


class WatchedStop:
    """Stop of a watched loop: each look at it is a turn, and a long wait has several.

    It is made in the loop's thread: looks of other threads say nothing of the loop.
    """

    def __init__(self, stop: Stop, turned: Callable[[], None]) -> None:
        self._stop, self._turned = stop, turned
        self._thread = get_ident()

    @property
    def requested(self) -> bool:
        """True as soon as the loop is to end."""
        if get_ident() == self._thread:
            self._turned()
        return self._stop.requested

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop is to end."""
        left = seconds
        while left > 0 and not self.requested:
            self._stop.wait(min(left, _SLICE_S))
            left -= _SLICE_S
