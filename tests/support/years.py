"""Years of accounts by chance: what time brings, and what is done to subscriptions, seeded.

Unlike the worlds, months pass between two batches: what nobody has seen is much of what happens.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import TypeVar

from schemas import Command
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    deduct,
    extend,
    opening,
    record,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
)
from tests.support.model_account import boundary
from tests.support.strategies import STARTS, Day

T = TypeVar("T")

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_TIERS = ("free", "pro", "empty", "steady", "saver", "keeper", "idle", "keeper", "steady")
#: Steps between two batches; zero and short ones let commands meet each other.
_STEPS = (
    timedelta(0),
    timedelta(seconds=3),
    _HOUR,
    12 * _HOUR,
    *(days * _DAY for days in (1, 2, 14, 28, 29, 30, 31, 31, 45, 100, 400)),
)
_LIVES = (1, 3_600, 86_400, 5 * 86_400, 30 * 86_400)
_NEAR = (None, None, -40 * _DAY, -_DAY, -_HOUR, timedelta(0), _HOUR, _DAY, 10 * _DAY)


class Years:
    """Chance, the time, and the names of what may be named again."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._numbers = count()
        self._users = ("u0", "u1")
        self._named: dict[str, list[tuple[str, str]]] = {}
        self.now = self._random.choice(STARTS)
        #: The ends at which periods may end: of the account's own months, and of the gateway's.
        self._ends: list[datetime] = []

    def day(self, batches: int) -> Day:
        """Return the batches with their times; the first opens the accounts."""
        self._ends = [boundary(self.now, months) for months in range(1, 80)]
        day: Day = [(self.now, [opening(f"o-{user}", user, self._pick(_TIERS)) for user in self._users])]
        for _ in range(batches):
            self.now = self._next_time()
            day.append((self.now, [self._command() for _ in range(self._random.randint(1, 4))]))
        return day

    def looks(self, day: Day, count: int) -> Day:
        """Return looks at the accounts at any time between the first and the last batch."""
        first, last = day[0][0], day[-1][0]
        span = (last - first) // timedelta(microseconds=1)
        moments = [first + timedelta(microseconds=self._random.randint(0, span)) for _ in range(count)]
        moments += [end for end in self._ends if end < last and self._often(0.3)]
        return [(at, [settling(**self._fresh("look", user)) for user in self._users]) for at in moments]

    def _next_time(self) -> datetime:
        ahead = [end for end in self._ends if end > self.now + 2 * _DAY]
        if ahead and self._often(0.4):
            near = ahead[0] - self._pick((_HOUR, _DAY, timedelta(0), -_HOUR, 3 * _DAY, -5 * _DAY))
            return max(self.now, near)
        return self.now + self._pick(_STEPS)

    def _command(self) -> Command:
        return self._pick(_MAKERS)(self)

    def _pick(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def _often(self, share: float) -> bool:
        return self._random.random() < share

    def _fresh(self, kind: str, user: str | None = None) -> dict[str, str]:
        reference, user = f"{kind}-{next(self._numbers)}", user or self._pick(self._users)
        self._named.setdefault(kind, []).append((reference, user))
        return {"reference_id": reference, "user_id": user}

    def _about(self, kind: str) -> tuple[str, dict[str, str]]:
        name, user = self._pick(self._named.get(kind, [])[-4:] or [("nothing", self._users[0])])
        return name, self._fresh("about", user)

    def _later(self, steps: Sequence[timedelta | None]) -> datetime | None:
        step = self._pick(steps)
        return None if step is None else self.now + step

    # -- commands -----------------------------------------------------------------------------------------

    def _deduct(self) -> Command:
        return deduct(self._pick((5, 20, 70, 130)), **self._fresh("use"))

    def _record(self) -> Command:
        return record(self._pick(("page", "upload", "search")), self._pick((1, 3, 10)), **self._fresh("use"))

    def _upload(self) -> Command:
        return upload(self._pick((10, 40)), **self._fresh("up"))

    def _refund(self) -> Command:
        used, own = self._about("use")
        return refund(self._pick((5, 20, 70)), used, **own)

    def _reserve(self) -> Command:
        return reserve(self._pick((5, 70, 100)), ttl_seconds=self._pick(_LIVES), **self._fresh("hold"))

    def _release(self) -> Command:
        hold, own = self._about("hold")
        return release(hold, **own)

    def _capture(self) -> Command:
        hold, own = self._about("hold")
        return settle(self._pick((0, 5, 90)), hold, **own)

    def _extend(self) -> Command:
        hold, own = self._about("hold")
        return extend(self._pick(_LIVES), hold, **own)

    def _bonus(self) -> Command:
        start, end = self._later((None, None, _DAY, 40 * _DAY)), self._later((None, 50 * _DAY, 200 * _DAY))
        return bonus(self._pick((20, 70)), **self._fresh("b"), effective_at=start, expires_at=end)

    def _adjust(self) -> Command:
        tokens = self._pick((15, -25, -150, -700))
        return adjust(tokens, **self._fresh("a"), **({"allow_negative": True} if tokens < 0 else {}))

    def _change(self) -> Command:
        at = self._pick((None, None, "now", "period_end"))
        return change(self._pick(_TIERS), **self._fresh("h"), effective_at=at)

    def _change_with_period(self) -> Command:
        start, end = self._gateways()
        return change(self._pick(_TIERS), **self._fresh("h"), period_start=start, period_end=end)

    def _renew(self) -> Command:
        return renew(self._later(_NEAR), **self._fresh("n"))

    def _renew_with_period(self) -> Command:
        start, end = self._gateways()
        return renew(start, **self._fresh("n"), period_end=end)

    def _gateways(self) -> tuple[datetime, datetime]:
        """Return a gateway's period: from one of the ends, or a time near now; mostly a month."""
        near = [end for end in self._ends if abs(end - self.now) < 2 * _DAY]
        start = self._pick(near) if near and self._often(0.8) else self.now + self._pick(_NEAR[3:])
        end = boundary(start, 1) if self._often(0.8) else start + 14 * _DAY
        self._ends = sorted({*self._ends, end})
        return start, end

    def _cancel(self) -> Command:
        return cancel(self._pick(("period_end", "now")), **self._fresh("k"))

    def _look(self) -> Command:
        return settling(**self._fresh("t"))


_MAKERS: Sequence[Callable[[Years], Command]] = (
    *[Years._deduct] * 3,
    *[Years._reserve] * 2,
    *[Years._renew] * 3,
    *[Years._renew_with_period] * 3,
    *[Years._change] * 3,
    *[Years._change_with_period] * 2,
    *[Years._cancel] * 2,
    Years._record,
    Years._upload,
    Years._refund,
    Years._release,
    Years._capture,
    Years._extend,
    Years._bonus,
    *[Years._adjust] * 2,
    Years._look,
)


def years_of(seeds: range, batches: int = 10) -> Iterator[tuple[int, Years, Day]]:
    """Yield years of two accounts for each seed."""
    for seed in seeds:
        years = Years(seed)
        yield seed, years, years.day(batches)
