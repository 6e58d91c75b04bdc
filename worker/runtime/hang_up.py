"""SIGHUP: the request to read again what may change while a process runs."""

import signal
from types import FrameType


class HangUp:
    """Request by SIGHUP; ``take`` returns True once for each, or for several in a row."""

    def __init__(self) -> None:
        self._is_requested = False

    def install(self) -> None:
        """Take the signal of this process; from its main thread."""
        signal.signal(signal.SIGHUP, self._on_signal)

    def request(self) -> None:
        """Request it without a signal."""
        self._is_requested = True

    @property
    def requested(self) -> bool:
        """True where a request has not been taken yet."""
        return self._is_requested

    def take(self) -> bool:
        """Return True where it was requested since the last call."""
        requested, self._is_requested = self._is_requested, False
        return requested

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._is_requested = True
