"""The loop of all watches: each looks once a minute, or more rarely where its look takes long."""

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from worker.errors import ConfigurationError, TransientError
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Time between two looks of a watch, in seconds; a look that takes long has at most this share of the time.
LOOK_EVERY_S, SHARE_MAX = 60.0, 0.01


class Watch(Protocol):
    """Gauges that are read together."""

    def look(self) -> None:
        """Read the numbers and set the gauges. Raises TransientError and ConfigurationError."""
        ...

    def forget(self) -> None:
        """Set the gauges to NaN: nobody knows the numbers."""
        ...


class Watches:
    """Runs watches one after the other, each in its own time."""

    def __init__(self, watches: Sequence[Watch], *, seconds: Callable[[], float] = monotonic) -> None:
        self._due_at = dict.fromkeys(watches, seconds())
        self._seconds = seconds

    def run(self, stop: Stop) -> None:
        """Look until ``stop``; an outage hides numbers and ends nothing."""
        while not stop.requested:
            stop.wait(self.look())

    def look(self) -> float:
        """Let each watch look whose time has come; return the seconds until the next one."""
        for watch, due_at in self._due_at.items():
            began = self._seconds()
            if due_at <= began:
                _look(watch)
                took_s = self._seconds() - began
                self._due_at[watch] = began + max(LOOK_EVERY_S, took_s / SHARE_MAX)
        return max(min(self._due_at.values()) - self._seconds(), 0.0)


def _look(watch: Watch) -> None:
    try:
        watch.look()
    except (TransientError, ConfigurationError) as error:
        log.debug("%s can't look: %s", type(watch).__name__, error)
        watch.forget()
