"""Posting of what is due: holds run out, tokens expire or roll over, periods renew, credits take effect.

It happens whenever a command touches the account, in the order in which things fell due: nothing waits for
a job. Every period that has passed is posted. Of periods in a row of which nothing is left, whoever looks,
the allocations are one lot with one entry, and another for what expired: so ten years are few rows.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from heapq import heappop, heappush
from typing import NamedTuple, assert_never

from worker.catalog import Tier
from worker.core.account import Account
from worker.core.calendars import AHEAD, allocation_period, begin_own, period_after
from worker.core.credits import credit, open_lot, take_effect
from worker.core.holds import close_hold
from worker.core.known import Hold, HoldState, Lot, Source
from worker.core.lots import Credit, lot_due_at
from worker.core.outcomes import Outcome
from worker.core.periods import Period, period_at
from worker.core.plan import Counter
from worker.core.thresholds import compare_balance

#: Longest time between two looks at an account whose subscription runs, even where nothing seems due.
_LOOKED_AT_EVERY = timedelta(days=31)

# The order of things that are due at the same time: what is left of a period follows the rules of its tier.
_RUNS_OUT, _EXPIRES, _CHANGES, _RENEWS, _TAKES_EFFECT = range(5)


class _Turn(Enum):
    """Things that are due of the subscription itself."""

    CHANGE = _CHANGES
    RENEWAL = _RENEWS


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
                take_effect(account, outcome, lot, item.at)
                queue.add([_due_of(lot, account.now)])
            case Lot() as lot:
                _roll_over(account, outcome, lot, item.at, rolled)
                _expire_if_over(account, outcome, lot, item.at)
            case _Turn.CHANGE:
                _change_tier(account)
                queue.add([_renewal_due(account)])
            case _Turn.RENEWAL:
                _renew(account, outcome, queue)
                queue.add([_renewal_due(account)])
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
    if state.next_tier_at is not None:
        moments.append(state.next_tier_at)
    return min(moments, default=None)


# -- the order --------------------------------------------------------------------------------------------


class _DueItem(NamedTuple):
    """Due hold, lot or turn. Of several at one time, the lower rank comes first, then the earlier place.

    The place is one that the ledger remembers: a lot's number, or when a hold was opened and its reference.
    """

    at: datetime
    rank: int
    place: int | tuple[datetime, str]
    subject: Hold | Lot | _Turn


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
        return None if self.next_at is None else heappop(self._heap)[-1]

    @property
    def next_at(self) -> datetime | None:
        """Return when the earliest is due that is still to be posted, or None."""
        while self._heap and _is_done(self._heap[0][-1]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None


def _is_done(item: _DueItem) -> bool:
    """Return True for a lot of which nothing is left to expire."""
    return isinstance(item.subject, Lot) and item.rank == _EXPIRES and not item.subject.free


def _due_items(account: Account) -> Iterator[_DueItem | None]:
    now, state = account.now, account.state
    for hold in account.holds.values():
        if hold.state is HoldState.OPEN and hold.expires_at <= now:
            yield _DueItem(hold.expires_at, _RUNS_OUT, (hold.opened_at, hold.reference_id), hold)
    for lot in account.lots.values():
        yield _due_of(lot, now)
    if state.next_tier_at is not None and state.next_tier_at <= now:
        yield _DueItem(state.next_tier_at, _CHANGES, 0, _Turn.CHANGE)  # no period is due before
    else:
        yield _renewal_due(account)


def _renewal_due(account: Account) -> _DueItem | None:
    """Return the next period that begins by itself, where it has begun."""
    tier, state = account.tier, account.state
    if tier is None or not tier.auto_renew or state.ends_at is not None:
        return None
    if state.granted_until > account.now:
        return None
    return _DueItem(state.granted_until, _RENEWS, 0, _Turn.RENEWAL)


def _due_of(lot: Lot, now: datetime) -> _DueItem | None:
    if lot.free and (ends_at := lot.ends_at) is not None and ends_at <= now:
        return _DueItem(ends_at, _EXPIRES, lot.number, lot)
    if lot.pending and lot.effective_at <= now:
        return _DueItem(lot.effective_at, _TAKES_EFFECT, lot.number, lot)
    return None


# -- posting ----------------------------------------------------------------------------------------------


def _run_out(account: Account, outcome: Outcome, hold: Hold) -> None:
    close_hold(account, outcome, hold, HoldState.EXPIRED, at=hold.expires_at)
    for number, _ in hold.parts:
        lot = account.lots[number]
        if (ends_at := lot.ends_at) is not None and ends_at < hold.expires_at:
            _expire_if_over(account, outcome, lot, hold.expires_at)
    account.repay(outcome, hold.expires_at)


def _roll_over(
    account: Account, outcome: Outcome, lot: Lot, at: datetime, rolled: dict[datetime, int]
) -> None:
    """Transfer what the tier lets roll over of an allocation to a lot of the next period."""
    tier, state = account.tier, account.state
    if lot.source is not Source.ALLOCATION or lot.parent is not None or tier is None:
        return
    period = period_after(state, at)
    if lot.ended_at is not None or at - period.start >= AHEAD:
        return  # it was ended, or ends inside another period
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
    """Expire what is free of a lot that is over at ``at``; one that was ended is, by any clock."""
    free, ends_at = lot.free, lot.ends_at
    if free and ends_at is not None and (ends_at <= at or lot.ended_at is not None):
        account.post(outcome, Counter.EXPIRY, -free, lot, due_at=min(ends_at, at))


def _change_tier(account: Account) -> None:
    """Let the tier that was chosen for now take its place; what was not granted before is not granted now."""
    state = account.change()
    if state.next_tier is None or state.next_tier_at is None:
        return
    if state.granted_until < state.next_tier_at:
        begin_own(state, Period(state.granted_until, state.next_tier_at), account.now)
        state.period_granted = 0
    state.tier, state.next_tier, state.next_tier_at = state.next_tier, None, None


def _renew(account: Account, outcome: Outcome, queue: _DueQueue) -> None:
    """Grant the next period; or all at once that have passed and of which nothing is left."""
    state, tier = account.state, account.catalog.tiers[account.state.tier]
    passed = list(_passed_periods(account))
    if state.debt:
        repaying = state.debt // tier.monthly_tokens if tier.monthly_tokens else len(passed)
        before = queue.next_at or account.now
        passed = [period for period in passed[:repaying] if period.start < before]
    if len(passed) > 1:
        _grant_at_once(account, outcome, tier, passed)
    else:
        _grant(account, outcome, tier, _next_period(account, state.granted_until))


def _passed_periods(account: Account) -> Iterator[Period]:
    """Yield the periods to be granted that have passed, without the last, of which a part may be left."""
    present = allocation_period(account.state, account.now)
    last = allocation_period(account.state, present.start - timedelta(microseconds=1))
    end = account.state.granted_until
    while end < last.start:
        period = _next_period(account, end)
        yield period
        end = period.end


def _next_period(account: Account, start: datetime) -> Period:
    """Return the period from ``start``, which is the end of the one before."""
    return Period(start, allocation_period(account.state, start).end)


def _grant_at_once(account: Account, outcome: Outcome, tier: Tier, periods: list[Period]) -> None:
    """Grant several periods in one lot; what doesn't repay the debt has expired since."""
    state, whole = account.change(), Period(periods[0].start, periods[-1].end)
    if tokens := tier.monthly_tokens * len(periods):
        new = Credit(tokens, Source.ALLOCATION, *whole)
        lot = credit(account, outcome, new, due_at=whole.start)
        _expire_if_over(account, outcome, lot, whole.end)
    begin_own(state, whole, account.now)
    state.period_granted = tier.monthly_tokens


def _grant_first(account: Account, outcome: Outcome) -> None:
    """Grant the first period of an account that a usage or credit command opened: due since it was opened."""
    tier, anchor = account.tier, account.state.anchor
    if tier is not None:
        _grant(account, outcome, tier, period_at(anchor, anchor))
        compare_balance(account)  # an account that is opened below a threshold has not fallen to it


def _grant(account: Account, outcome: Outcome, tier: Tier, period: Period) -> None:
    state = account.change()
    begin_own(state, period, account.now)
    state.period_granted = tier.monthly_tokens
    if tier.monthly_tokens:
        new = Credit(tier.monthly_tokens, Source.ALLOCATION, period.start, period.end)
        credit(account, outcome, new, due_at=period.start)
