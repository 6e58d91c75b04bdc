"""Calendar of one account: months from its anchor, and a gateway's own period while that runs.

A gateway's period is exactly what it says. After it months count from its start, where they meet its end, or
else from its end; so the anchor follows the gateway.
"""

from datetime import datetime, timedelta

from worker.core.known import AccountState
from worker.core.periods import Period, months_after, period_at

#: Two calendars never agree to the second: what is so near to a period's start is about that period.
AHEAD = timedelta(days=1)
_MONTH_AT_MOST = timedelta(days=31)
#: Months from the last days of a month end up to three days apart, and calendars differ by one more.
_GOES_ON = timedelta(days=4)


def present_period(state: AccountState, now: datetime) -> Period:
    """Return the period in which quotas count at ``now``: the months of a period that is longer than one."""
    start, end = period = allocation_period(state, now)
    if end - start <= _MONTH_AT_MOST:
        return period
    month = period_at(start, max(now, start))
    return Period(month.start, min(month.end, end))


def allocation_period(state: AccountState, moment: datetime) -> Period:
    """Return the period of ``moment`` for which tokens are granted; the first one, for a time before it."""
    moment = max(moment, state.anchor)
    start = state.granted_from
    if start is None:
        return period_at(state.anchor, moment)
    if moment >= state.granted_until:
        return period_at(_anchor_after(state), moment)
    if moment >= start:
        return Period(start, state.granted_until)
    before = period_at(state.anchor, moment)
    return Period(before.start, min(before.end, start))


def period_after(state: AccountState, end: datetime) -> Period:
    """Return the period into which tokens of one that ended at ``end`` roll over."""
    start = state.granted_from
    if start is not None and abs(start - end) < AHEAD:
        return Period(start, state.granted_until)
    return allocation_period(state, end)


def last_start(state: AccountState) -> datetime | None:
    """Return the start of the last period that was granted; None before the first."""
    if state.granted_from is not None:
        return state.granted_from
    if state.granted_until <= state.anchor:
        return None
    return period_at(state.anchor, state.granted_until - timedelta(microseconds=1)).start


def is_granted_to_gateway(state: AccountState, period: Period) -> bool:
    """Return True where the period that a gateway names is granted, or a later one.

    Where the last one was not a gateway's, the two are the same if they begin within a day, unless the
    gateway's goes on: a year that is paid on the day of opening is no month.
    """
    last = last_start(state)
    if last is None:
        return False
    if state.granted_from is not None:
        return period.start <= last
    return period.start - last < AHEAD and period.end - state.granted_until < _GOES_ON


def begin_own(state: AccountState, period: Period, now: datetime) -> None:
    """Make ``period``, which the account's own calendar named, the last that is granted."""
    if state.granted_from is not None and now < period.start:
        begin_gateways(state, period, now)  # until then the gateway's own goes on
        return
    state.anchor, state.granted_from = _anchor_after(state), None
    state.granted_until = period.end


def begin_gateways(state: AccountState, period: Period, now: datetime) -> None:
    """Make ``period``, which a gateway named, the last that is granted; the one of ``now`` stays known."""
    if state.granted_from is not None and state.granted_from <= now:
        is_over = now >= state.granted_until
        state.anchor = _anchor_after(state) if is_over else _anchor_within(state, state.granted_from)
    state.granted_from, state.granted_until = period


def give_up_ahead(state: AccountState, ahead: datetime, now: datetime) -> None:
    """Make the period of ``now`` the last that is granted again, which ends at ``ahead``."""
    if state.granted_from is not None:
        state.granted_from = allocation_period(state, now).start
    state.granted_until = ahead


def _anchor_within(state: AccountState, start: datetime) -> datetime:
    """Return the anchor of the gateway's period from ``start``: the account's own, where that meets it."""
    own = period_at(state.anchor, max(start, state.anchor))
    return state.anchor if own == (start, state.granted_until) else start


def _anchor_after(state: AccountState) -> datetime:
    """Return the anchor of the months that follow the last granted period."""
    start, end = state.granted_from, state.granted_until
    if start is None:
        return state.anchor
    anchor = _anchor_within(state, start)
    months = (end.year - anchor.year) * 12 + end.month - anchor.month
    return anchor if months_after(anchor, months) == end else end
