"""Pace of a run: its rate, the waits between two looks and through outages, how long nothing has moved."""

from collections.abc import Callable

from worker.runtime.stop import Stop

_CHUNK = 250
_BURST_S = 0.2
_LOOK_FIRST_S, _LOOK_MOST_S = 0.02, 0.25
_KEPT_ALIVE_EVERY_S = 0.5


class RunPace:
    """Pace of one run. ``seconds`` is a clock that only goes forward."""

    def __init__(self, seconds: Callable[[], float], stop: Stop) -> None:
        self._seconds, self._stop = seconds, stop
        self._may_send_at = self._moved_at = seconds()
        self._look_s = _LOOK_FIRST_S

    def room(self, rate: float | None) -> int:
        """Return the number of messages that may be sent now, at ``rate`` a second."""
        if self._seconds() < self._may_send_at:
            return 0
        return _CHUNK if rate is None else min(max(int(rate * _BURST_S), 1), _CHUNK)

    def count_sent(self, count: int, rate: float | None) -> None:
        """Count messages against the rate."""
        if rate is not None:
            self._may_send_at = max(self._may_send_at, self._seconds() - _BURST_S) + count / rate

    def note_move(self) -> None:
        """Note that something has moved, or that nothing could."""
        self._moved_at = self._seconds()

    @property
    def unmoved_s(self) -> float:
        """Seconds since something moved."""
        return self._seconds() - self._moved_at

    def pause(self, *, moved: bool) -> None:
        """Look often while items change, and seldom while they don't."""
        if moved:
            self.note_move()
            self._look_s = _LOOK_FIRST_S
            return
        until_rate = self._may_send_at - self._seconds()
        self._stop.wait(min(self._look_s, until_rate) if until_rate > 0 else self._look_s)
        self._look_s = min(self._look_s * 1.5, _LOOK_MOST_S)

    def wait_out(self, seconds: float, keep_alive: Callable[[], None]) -> None:
        """Wait so long for a server, or until the stop; it doesn't count as time without a move."""
        left = seconds
        while left > 0 and not self._stop.requested:
            self._stop.wait(min(left, _KEPT_ALIVE_EVERY_S))
            left -= _KEPT_ALIVE_EVERY_S
            keep_alive()
        self.note_move()
