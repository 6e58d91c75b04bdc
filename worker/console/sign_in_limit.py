"""Limits of sign-ins: failures are followed by waits that grow, kept in memory of a fixed size.

A name is no secret, so its limit must lock nobody out. Failures count by name *and* network: who guesses from
elsewhere doesn't touch the owner of the name. They count by network for all names, and, softly, by name for
all networks, against guesses that come from many. A browser that has signed in under the name before is
counted by itself alone (OWASP's device cookies), so that it gets in whatever others do.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import monotonic

#: Most keys of one kind. The one that failed longest ago is forgotten for a new one.
KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class BackOffRule:
    """``free`` failures without a wait; then one of ``first_s`` that doubles, up to ``most_s``.

    A failure is forgiven each ``forgiven_s`` seconds.
    """

    free: int
    first_s: float
    most_s: float
    forgiven_s: float

    def wait_s(self, failures: float) -> float:
        """Return the wait after so many failures."""
        over = ceil(failures) - self.free
        return 0.0 if over <= 0 else min(self.first_s * 2.0 ** min(over - 1, 60), self.most_s)


#: Four slips are free, then 2, 4, 8 … seconds: 96 guesses a day in the end.
OF_PAIR = BackOffRule(free=4, first_s=2, most_s=900, forgiven_s=900)
#: An office behind one address may make more.
OF_NETWORK = BackOffRule(free=30, first_s=2, most_s=900, forgiven_s=300)
#: Guesses from many networks: a short wait, and for strange browsers alone.
OF_NAME = BackOffRule(free=100, first_s=1, most_s=30, forgiven_s=60)


@dataclass(slots=True)
class _Failures:
    count: float
    at: float
    until: float = 0.0


class BackOff:
    """Failures of keys by one rule. Not for several threads at once."""

    def __init__(self, rule: BackOffRule, clock: Callable[[], float], keys_max: int = KEYS_MAX) -> None:
        self._rule, self._clock, self._keys_max = rule, clock, keys_max
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, key: str) -> float:
        """Return the seconds until ``key`` may try again; 0 where it may now."""
        found = self._failures.get(key)
        return 0.0 if found is None else max(found.until - self._clock(), 0.0)

    def add(self, key: str) -> None:
        """Count a failure of ``key``."""
        now = self._clock()
        found = self._failures.pop(key, None) or _Failures(0.0, now)
        found.count = max(found.count - (now - found.at) / self._rule.forgiven_s, 0.0) + 1
        found.at, found.until = now, now + self._rule.wait_s(found.count)
        self._failures[key] = found
        while len(self._failures) > self._keys_max:
            self._failures.popitem(last=False)

    def take_back(self, key: str) -> None:
        """Take back the last failure of ``key``, which was none, and its wait."""
        if (found := self._failures.get(key)) is not None:
            found.count, found.until = found.count - 1, 0.0
            if found.count <= 0:
                del self._failures[key]

    def forget(self, key: str) -> None:
        """Forget all failures of ``key``."""
        self._failures.pop(key, None)


@dataclass(frozen=True, slots=True)
class SignInAttempt:
    """Attempt to sign in; ``device`` is the key of a browser that has signed in under this name before."""

    name: str
    network: str
    device: str | None = None

    @property
    def pair(self) -> str:
        """Key of name and network; no address has a space in it."""
        return f"{self.network} {self.name}"


class SignInLimits:
    """Limits of attempts by device, else by name and network, by network, and by name."""

    def __init__(self, *, clock: Callable[[], float] = monotonic, keys_max: int = KEYS_MAX) -> None:
        self._lock = threading.Lock()
        self._devices, self._pairs = BackOff(OF_PAIR, clock, keys_max), BackOff(OF_PAIR, clock, keys_max)
        self._networks, self._names = (
            BackOff(OF_NETWORK, clock, keys_max),
            BackOff(OF_NAME, clock, keys_max),
        )

    def begin(self, attempt: SignInAttempt) -> float:
        """Return 0 and count a failure, until ``succeeded`` says otherwise; or return the seconds to wait.

        It counts first, so that many attempts at the same time are no way around. What has to wait isn't
        counted: hammering makes nobody's wait longer.
        """
        with self._lock:
            wait_s = max(limit.wait_s(key) for limit, key in self._of(attempt))
            if not wait_s:
                for limit, key in self._of(attempt):
                    limit.add(key)
            return wait_s

    def succeeded(self, attempt: SignInAttempt) -> None:
        """Take back what ``begin`` counted, and forget the failures of the device, or of name and network.

        Failures by network and name stay: one's own account must not pay for guesses at others'.
        """
        with self._lock:
            for limit, key in self._of(attempt):
                if limit in (self._devices, self._pairs):
                    limit.forget(key)
                else:
                    limit.take_back(key)

    def withdraw(self, attempt: SignInAttempt) -> None:
        """Take back what ``begin`` counted, where the attempt was not judged."""
        with self._lock:
            for limit, key in self._of(attempt):
                limit.take_back(key)

    def _of(self, attempt: SignInAttempt) -> list[tuple[BackOff, str]]:
        if attempt.device is not None:
            return [(self._devices, attempt.device)]
        return [
            (self._pairs, attempt.pair),
            (self._networks, attempt.network),
            (self._names, attempt.name),
        ]

    def __len__(self) -> int:
        """Number of keys that are kept."""
        return sum(map(len, (self._devices, self._pairs, self._networks, self._names)))
