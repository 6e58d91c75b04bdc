"""Posting of what is due: holds run out, tokens expire or roll over, periods renew, credits take effect.

It happens whenever a command touches the account, in the order in which things fell due: nothing waits for
a job.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import NamedTuple, assert_never

from worker.catalog import Tier
from worker.core.account import Account
from worker.core.credits import credit, open_lot, take_effect
from worker.core.holds import close_hold
from worker.core.known import Hold, HoldState, Lot, Source, present_period
from worker.core.lots import Credit, lot_due_at
from worker.core.outcomes import Outcome
from worker.core.periods import Period, period_at
from worker.core.plan import Counter
from worker.core.thresholds import compare_balance

#: Longest time between two looks at an account whose subscription runs, even where nothing seems due.
_LOOKED_AT_EVERY = timedelta(days=31)

# The order of things that are due at the same time.
_RUNS_OUT, _EXPIRES, _RENEWS, _TAKES_EFFECT = range(4)


def post_due(account: Account, outcome: Outcome) -> None:
    """Post all that is due, in the order in which it fell due."""
    if account.state.granted_until <= account.state.anchor:
        _grant_first(account, outcome)
    rolled: dict[datetime, int] = {}
    queue = _DueQueue(_due_items(account))
    while (item := queue.next()) is not None:
        lots_before = len(account.written.new_lots)
        match item.subject:
            case Hold() as hold:
                _run_out(account, outcome, hold)
                queue.add(_due_of(account.lots[number], account.now) for number, _ in hold.parts)
            case Lot() as lot if item.rank == _TAKES_EFFECT:
                take_effect(account, outcome, lot)
                queue.add([_due_of(lot, account.now)])
            case Lot() as lot:
                _roll_over(account, outcome, lot, item.at, rolled)
                _expire_if_over(account, outcome, lot, item.at)
            case None:
                _renew(account, outcome)
            case _:
                assert_never(item.subject)
        queue.add(_due_of(lot, account.now) for lot in account.written.new_lots[lots_before:])
    account.forget_freed()
    account.change().due_at = next_due(account)


def post_freed(account: Account, outcome: Outcome) -> None:
    """Expire the tokens that a command has freed and whose time is over; repay the debt with the others."""
    if not account.has_freed:
        return
    account.forget_freed()
    for lot in list(account.lots.values()):
        _expire_if_over(account, outcome, lot, account.now)
    account.repay(outcome, account.now)


def next_due(account: Account) -> datetime | None:
    """Return the time at which something may be due next."""
    now, state = account.now, account.state
    days = account.catalog.notices.expiring_days
    moments = [hold.expires_at for hold in account.holds.values() if hold.state is HoldState.OPEN]
    for lot in account.lots.values():
        if lot.pending:
            moments.append(lot.effective_at)
        if (at := lot_due_at(lot, now, days)) is not None:
            moments.append(at)
    if state.ends_at is None:
        # The end of the granted period; but at least once a month, since catalogs change.
        latest = now + _LOOKED_AT_EVERY
        is_ahead = now < state.granted_until < latest
        moments.append(state.granted_until if is_ahead else latest)
    return min(moments, default=None)


# -- the order --------------------------------------------------------------------------------------------


class _DueItem(NamedTuple):
    """Due hold, lot or renewal. Of several at one time, the lower rank comes first, then the earlier place.

    The place is one that the ledger remembers: a lot's number, or when a hold was opened and its reference.
    The subject is None for the renewal.
    """

    at: datetime
    rank: int
    place: int | tuple[datetime, str]
    subject: Hold | Lot | None


class _DueQueue:
    """Things that are due, in their order; posting one of them may add more."""

    def __init__(self, items: Iterable[_DueItem | None]) -> None:
        self._heap: list[tuple[datetime, int, int | tuple[datetime, str], int, _DueItem]] = []
        self._count = 0
        self.add(items)

    def add(self, items: Iterable[_DueItem | None]) -> None:
        for item in items:
            if item is not None:
                self._count += 1
                heappush(self._heap, (item.at, item.rank, item.place, self._count, item))

    def next(self) -> _DueItem | None:
        """Return the earliest that is still to be posted, or None."""
        while self._heap:
            item = heappop(self._heap)[-1]
            if not isinstance(item.subject, Lot) or item.subject.free or item.rank == _TAKES_EFFECT:
                return item
        return None


def _due_items(account: Account) -> Iterator[_DueItem | None]:
    now, state = account.now, account.state
    for hold in account.holds.values():
        if hold.state is HoldState.OPEN and hold.expires_at <= now:
            yield _DueItem(hold.expires_at, _RUNS_OUT, (hold.opened_at, hold.reference_id), hold)
    for lot in account.lots.values():
        yield _due_of(lot, now)
    tier = account.tier
    if tier is not None and tier.auto_renew and state.ends_at is None and state.granted_until <= now:
        yield _DueItem(present_period(state, now).start, _RENEWS, 0, None)


def _due_of(lot: Lot, now: datetime) -> _DueItem | None:
    if lot.free and lot.expires_at is not None and lot.expires_at <= now:
        return _DueItem(lot.expires_at, _EXPIRES, lot.number, lot)
    if lot.pending and lot.effective_at <= now:
        return _DueItem(lot.effective_at, _TAKES_EFFECT, lot.number, lot)
    return None


# -- posting ----------------------------------------------------------------------------------------------


def _run_out(account: Account, outcome: Outcome, hold: Hold) -> None:
    close_hold(account, outcome, hold, HoldState.EXPIRED, at=hold.expires_at)
    for number, _ in hold.parts:
        lot = account.lots[number]
        if lot.expires_at is not None and lot.expires_at < hold.expires_at:
            _expire_if_over(account, outcome, lot, hold.expires_at)
    account.repay(outcome, hold.expires_at)


def _roll_over(
    account: Account, outcome: Outcome, lot: Lot, at: datetime, rolled: dict[datetime, int]
) -> None:
    """Transfer what the tier lets roll over of an allocation to a lot of the next period."""
    tier, state = account.tier, account.state
    if lot.source is not Source.ALLOCATION or lot.parent is not None or tier is None:
        return
    period = period_at(state.anchor, at)
    if period.start != at:
        return  # an imported allocation that ends inside a period
    has_ended = state.ends_at is not None and state.ends_at <= at
    cap = 0 if has_ended else tier.rollover_tokens
    roll = min(lot.free, cap - rolled.get(at, 0))
    if not roll:
        return
    rolled[at] = rolled.get(at, 0) + roll
    heir = open_lot(account, outcome, Credit(roll, Source.ALLOCATION, at, period.end, parent=lot.number))
    account.post(outcome, Counter.TRANSFERS, -roll, lot, due_at=at)
    account.post(outcome, Counter.TRANSFERS, roll, heir, due_at=at)
    account.repay(outcome, at)


def _expire_if_over(account: Account, outcome: Outcome, lot: Lot, at: datetime) -> None:
    free = lot.free
    if free and lot.expires_at is not None and lot.expires_at <= at:
        account.post(outcome, Counter.EXPIRY, -free, lot, due_at=lot.expires_at)


def _renew(account: Account, outcome: Outcome) -> None:
    tier = account.catalog.tiers[account.state.tier]
    _grant(account, outcome, tier, present_period(account.state, account.now))


def _grant_first(account: Account, outcome: Outcome) -> None:
    """Grant the first period of an account that a usage or credit command opened: due since it was opened."""
    tier, anchor = account.tier, account.state.anchor
    if tier is not None:
        _grant(account, outcome, tier, period_at(anchor, anchor))
        compare_balance(account)  # an account that is opened below a threshold has not fallen to it


def _grant(account: Account, outcome: Outcome, tier: Tier, period: Period) -> None:
    state = account.change()
    state.granted_until, state.period_granted = period.end, tier.monthly_tokens
    if tier.monthly_tokens:
        new = Credit(tier.monthly_tokens, Source.ALLOCATION, period.start, period.end)
        credit(account, outcome, new, due_at=period.start)
