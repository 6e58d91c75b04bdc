"""Rate limit on sign-ins within a time, kept in memory."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic

_KEYS_MAX = 10_000


class SignInLimit:
    """Limit of ``most`` sign-ins within ``within_s`` seconds for each key; the oldest keys are forgotten."""

    def __init__(self, most: int, within_s: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._lock = threading.Lock()
        self._made: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """Return the seconds until ``key`` may sign in; 0 where it may now."""
        with self._lock:
            made = self._recent(key)
            return max(made[0] + self._within_s - self._clock(), 0.0) if len(made) >= self._most else 0.0

    def count(self, key: str) -> None:
        """Count a sign-in of ``key``, good or failed."""
        with self._lock:
            made = self._recent(key)
            made.append(self._clock())
            self._made[key] = made
            self._made.move_to_end(key)
            while len(self._made) > _KEYS_MAX:
                self._made.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget the sign-ins of ``key`` after a good one."""
        with self._lock:
            self._made.pop(key, None)

    def _recent(self, key: str) -> deque[float]:
        made = self._made.get(key, deque())
        while made and made[0] + self._within_s <= self._clock():
            made.popleft()
        return made
