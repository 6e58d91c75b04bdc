"""Log lines limited in number, however often the same thing happens."""

import logging
from collections.abc import Callable
from time import monotonic


class LimitedLog:
    """Logs the first event of a kind at once, then one line in ``every_s`` seconds with the count.

    At most ``kinds_max`` kinds at a time have lines of their own; further ones share one. A kind that has not
    happened for ``every_s`` seconds makes room.
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
        self._logged: dict[str, tuple[float, int]] = {}  # a kind's last line, and its events since then

    def add(self, kind: str, text: str, count: int = 1) -> None:
        """Count ``count`` events of ``kind``; ``text`` says what happened and what to do."""
        now = self._seconds()
        if kind not in self._logged and len(self._logged) >= self._kinds_max:
            self._forget_old(now)
        if kind not in self._logged and len(self._logged) >= self._kinds_max:
            kind = "others"
        last, before = self._logged.get(kind, (now - self._every_s, 0))
        count_since = before + count
        if now - last < self._every_s:
            self._logged[kind] = (last, count_since)
            return
        self._logged[kind] = (now, 0)
        more = f" ({count_since} times since the last such line)" if count_since > 1 else ""
        self._log.log(self._level, "%s%s", text, more)

    def _forget_old(self, now: float) -> None:
        """Forget the kinds whose next event is logged at once, with or without them."""
        self._logged = {
            kind: (last, count)
            for kind, (last, count) in self._logged.items()
            if count or now - last < self._every_s
        }
