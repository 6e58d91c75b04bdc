"""Log lines that stay few, however often the same thing happens."""

import logging
from collections.abc import Callable
from time import monotonic


class LimitedLog:
    """Logs the first event of a kind at once, then one line in ``every_s`` seconds with the count.

    At most ``kinds_max`` kinds are told apart; further ones share a line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        level: int,
        *,
        every_s: float = 60.0,
        kinds_max: int = 100,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._log, self._level, self._every_s = logger, level, every_s
        self._kinds_max, self._seconds = kinds_max, seconds
        self._told: dict[str, tuple[float, int]] = {}  # when a kind was logged last, and how many came since

    def add(self, kind: str, text: str, count: int = 1) -> None:
        """Note ``count`` events of ``kind``; ``text`` says what happened and what to do."""
        if kind not in self._told and len(self._told) >= self._kinds_max:
            kind = "others"
        now = self._seconds()
        last, unsaid = self._told.get(kind, (now - self._every_s, 0))
        unsaid += count
        if now - last < self._every_s:
            self._told[kind] = (last, unsaid)
            return
        self._told[kind] = (now, 0)
        more = f" ({unsaid} times since the last such line)" if unsaid > 1 else ""
        self._log.log(self._level, "%s%s", text, more)
