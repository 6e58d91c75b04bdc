"""Reports of a supervised process: a pipe in which it writes a byte for the turns of its loop."""

import os
from contextlib import suppress

from worker.runtime.process_health import WORKS

_READ_BYTES = 4096


class ChildReport:
    """Latest report of one child. ``writing`` is the end of the pipe that the child gets."""

    def __init__(self, now: float) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._turned_at = now
        self.has_come = self.works = False

    def close_writing(self) -> None:
        """Leave the writing end to the child."""
        os.close(self.writing)

    def close(self) -> None:
        """Close the pipe: the child has ended."""
        os.close(self._reading)

    def read(self, now: float) -> None:
        """Read what has come."""
        with suppress(BlockingIOError):
            if read := os.read(self._reading, _READ_BYTES):
                self._turned_at, self.has_come = now, True
                self.works = read.endswith(WORKS)

    def is_live(self, now: float, live_s: float) -> bool:
        """Return True where the loop has turned, or the child has started, within ``live_s`` seconds."""
        return now - self._turned_at <= live_s
