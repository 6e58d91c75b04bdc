"""State of an account at any past time, as it was posted then.

It follows from what is kept for ever: the account's entries, the rows of its lots and holds, and the outcomes
of the commands about its subscription. What was posted since is subtracted from today's state: so the near
past, which is asked for most, is the cheapest. Times are those of posting, by the clocks of the workers.
"""

import json
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, or_, select

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    Code,
    ImportAccount,
    OpenAccount,
    RenewSubscription,
    Status,
    type_of,
)
from worker.core import AccountState, Counter, Hold, Lot, Source
from worker.core.calendars import begin_gateways, begin_own, give_up_ahead
from worker.core.lots import COUNTER_OF
from worker.core.periods import Period, period_at
from worker.errors import NotFoundError
from worker.ledger import rows
from worker.ledger.loading import holds_of
from worker.ledger.queries.freezing import freezing_at
from worker.ledger.queries.posted import PostedState, state_in
from worker.ledger.queries.snapshots import AccountKey, account_row, last_posted, on_operation, posted_at
from worker.ledger.tables import entries, holds, last_entry, lots, operations

_OPEN, _IMPORT, _CHANGE = type_of(OpenAccount), type_of(ImportAccount), type_of(ChangeSubscription)
_RENEW, _CANCEL = type_of(RenewSubscription), type_of(CancelSubscription)


def posted_state_at(connection: Connection, user_id: str, at: datetime) -> PostedState:
    """Return the account of ``user_id`` as it was posted at ``at`` (UTC), what was posted then included.

    Raises NotFoundError for an unknown user, and for a time before the account was opened or imported.
    """
    row = account_row(connection, user_id)
    if at < row.opened_at:
        raise NotFoundError(
            f"user {user_id!r} had no token account at {at.isoformat()}: "
            f"it was opened at {row.opened_at.isoformat()}"
        )
    if row.imported_at is not None and at < row.imported_at:
        raise NotFoundError(
            f"nothing is known of the token account of user {user_id!r} at {at.isoformat()}: "
            f"it came from another system at {row.imported_at.isoformat()}"
        )
    key = AccountKey(row.slot, row.account_id)
    last = last_posted(connection, key, row.sequence, lambda moment: moment <= at)
    since = _moved_since(connection, key, last)
    own_holds = _holds_at(connection, key, at)
    subscription = _subscription(connection, row)
    granted = _granted(connection, key)
    freezing = freezing_at(connection, key, user_id, at)
    state = _state_at(row, last, at, since, own_holds, subscription, granted)
    return PostedState(
        state=replace(state, frozen_at=freezing.frozen_at, unfrozen_at=freezing.unfrozen_at),
        lots=_lots_at(at, granted, since, own_holds, subscription),
        holds=own_holds,
        opened_at=row.opened_at,
        known_since=row.imported_at or row.opened_at,
        updated_at=posted_at(connection, key, last) if last else row.imported_at or row.opened_at,
    )


# -- what moved since -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moved:
    """Sums of the entries since, by counter and by lot, and the credits that have taken effect by them."""

    counters: Mapping[Counter, int]
    lots: Mapping[int | None, int]
    taken_effect: set[tuple[datetime, Counter]]


def _moved_since(connection: Connection, key: AccountKey, last: int) -> _Moved:
    entry = entries.c
    later = (key.owns(entries), entry.sequence > last)
    counters: Tally[Counter] = Tally()
    by_lot: Tally[int | None] = Tally()
    sums = (
        select(entry.counter, entry.lot, func.sum(entry.amount).label("amount"))
        .where(*later)
        .group_by(entry.counter, entry.lot)
    )
    for row in connection.execute(sums):
        counters[Counter(row.counter)] += int(row.amount)
        by_lot[row.lot] += int(row.amount)
    due = select(entry.occurred_at, entry.counter).where(*later, entry.is_due).distinct()
    taken_effect = {(row.occurred_at, Counter(row.counter)) for row in connection.execute(due)}
    return _Moved(counters, by_lot, taken_effect)


def _state_at(
    row: Row[Any],
    last: int,
    at: datetime,
    since: _Moved,
    own_holds: Sequence[Hold],
    subscription: "_Subscription",
    granted: Sequence["_Granted"],
) -> AccountState:
    present, moved = state_in(row), since.counters
    tier, next_tier, next_tier_at = subscription.tiers_at(at)
    period = _granted_at(row, at, subscription, granted)
    return replace(
        present,
        tier=tier,
        next_tier=next_tier,
        next_tier_at=next_tier_at,
        ends_at=subscription.ends_at(at),
        anchor=period.anchor,
        granted_from=period.granted_from,
        granted_until=period.granted_until,
        balance=present.balance - sum(moved.values()),
        sequence=last,
        allocated=present.allocated - moved[Counter.ALLOCATION],
        purchased=present.purchased - moved[Counter.PURCHASES],
        bonus=present.bonus - moved[Counter.BONUS],
        refunded=present.refunded - moved[Counter.REFUNDS],
        adjusted=present.adjusted - moved[Counter.ADJUSTMENTS],
        used=present.used + moved[Counter.USAGE],
        expired=present.expired + moved[Counter.EXPIRY],
        reversed=present.reversed + moved[Counter.REVERSALS],
        held=sum(hold.amount for hold in own_holds),
        debt=present.debt + since.lots.get(None, 0),
        lot_count=max((grant.lot.number for grant in granted if grant.is_there(at)), default=0),
        due_at=at,  # so that the account is looked at for anything due
    )


# -- lots and holds ---------------------------------------------------------------------------------------


class _Granted(NamedTuple):
    """Lot as it is today, and when it was granted; None for what was carried over."""

    lot: Lot
    granted_at: datetime | None

    def is_there(self, at: datetime) -> bool:
        """Return True where the ledger had it at ``at``."""
        return self.granted_at is None or self.granted_at <= at

    @property
    def was_scheduled(self) -> bool:
        """True where it took effect later than it was granted."""
        return self.granted_at is not None and self.lot.effective_at > self.granted_at

    @property
    def is_period(self) -> bool:
        """True for a period's allocation, but not for what was rolled over from one."""
        return self.lot.source is Source.ALLOCATION and self.lot.parent is None


def _granted(connection: Connection, key: AccountKey) -> list[_Granted]:
    """Return all lots the account has ever had, by number."""
    statement = (
        select(*(lots.c[name] for name in rows.LOT), operations.c.recorded_at.label("granted_at"))
        .outerjoin(operations, on_operation(lots.c.operation_id))
        .where(key.owns(lots))
        .order_by(lots.c.number)
    )
    return [_Granted(rows.lot(row[:-1]), row.granted_at) for row in connection.execute(statement)]


def _lots_at(
    at: datetime,
    granted: Iterable[_Granted],
    since: _Moved,
    own_holds: Iterable[Hold],
    subscription: "_Subscription",
) -> list[Lot]:
    held: Tally[int] = Tally()
    for hold in own_holds:
        held.update(dict(hold.parts))
    found = []
    for grant in granted:
        if not grant.is_there(at):
            continue
        lot = grant.lot.clone()
        if lot.ended_at is not None and lot.ended_at > at:
            lot.ended_at = None
        lot.remaining -= since.lots.get(lot.number, 0)
        lot.held = held[lot.number]
        lot.pending = lot.granted if _was_pending(grant, at, since, subscription) else 0
        if lot.remaining or lot.pending:
            found.append(lot)
    return found


def _was_pending(grant: _Granted, at: datetime, since: _Moved, subscription: "_Subscription") -> bool:
    """Return True for a lot that was still to take effect at ``at``.

    It is so today, or has taken effect or been given up since.
    """
    if not grant.was_scheduled:
        return False
    lot = grant.lot
    if lot.pending or (lot.effective_at, COUNTER_OF[lot.source]) in since.taken_effect:
        return True
    return lot.source is Source.ALLOCATION and subscription.was_cut_short(at, lot.effective_at)


def _holds_at(connection: Connection, key: AccountKey, at: datetime) -> list[Hold]:
    """Return the holds that were open at ``at``, as they were then.

    A hold that ran out is open in the ledger until its end is posted.
    """
    statement = (
        select(holds)
        .outerjoin(operations, on_operation(holds.c.closed_by))
        .where(key.owns(holds), holds.c.opened_at <= at)
        .where(or_(holds.c.closed_by.is_(None), operations.c.recorded_at > at))
        .order_by(holds.c.opened_at, holds.c.reference_id)
    )
    return [
        Hold(
            account_id=hold.account_id,
            reference_id=hold.reference_id,
            amount=hold.amount,
            parts=hold.parts,
            opened_at=hold.opened_at,
            expires_at=hold.expires_at,
            operation_id=hold.operation_id,
        )
        for hold in holds_of(connection, statement)
    ]


# -- the subscription -------------------------------------------------------------------------------------


class _Happened(NamedTuple):
    """Applied command about a subscription."""

    type: str
    detail: Mapping[str, str]
    content: str
    recorded_at: datetime


class _Grant(NamedTuple):
    """Period that was granted at a time; ``is_named`` where a gateway named it.

    ``is_cut`` where a cancellation gave up one that was granted ahead: the one before is the last again.
    """

    at: datetime
    period: Period
    is_named: bool
    is_cut: bool = False


class _Tiers(NamedTuple):
    """Tier of an account, and the one that is to follow."""

    tier: str
    next_tier: str | None = None
    next_tier_at: datetime | None = None


def _is_named(happened: _Happened) -> bool:
    """Return True for a command that granted a gateway's own period."""
    if happened.type not in (_CHANGE, _RENEW) or "period_start" not in happened.detail:
        return False
    return json.loads(happened.content).get("periodEnd") is not None


def _is_cut(happened: _Happened) -> bool:
    """Return True for a cancellation at once that gave up a period granted ahead: the one before goes on."""
    if happened.type != _CANCEL or json.loads(happened.content)["at"] != "now":
        return False
    return datetime.fromisoformat(happened.detail["period_end"]) > happened.recorded_at


def _in_their_order(changes: Sequence[_Happened]) -> list[_Happened]:
    """Return the commands with those of one transaction at the end in the order of the tiers they name."""
    last = [one for one in changes if one.recorded_at == changes[-1].recorded_at]
    before = list(changes[: -len(last)])
    tier = before[-1].detail["tier"] if before else None
    while last:
        following = next((one for one in last if one.detail.get("previous_tier") in (None, tier)), last[0])
        last.remove(following)
        before.append(following)
        tier = following.detail["tier"]
    return before


class _Subscription:
    """Applied commands about an account's subscription, in order.

    The order of two commands in one transaction that wrote no entries is unknown, but that of changes: each
    names the tier before it.
    """

    def __init__(self, row: Row[Any], happened: Sequence[_Happened]) -> None:
        self._row, self._happened = row, happened

    def tiers_at(self, at: datetime) -> "_Tiers":
        """Return the tier that was set last by ``at``, and the one to follow; or else today's.

        An account that another command than ``account.open`` opened had the tier that was changed first. One
        that was to follow by then may have followed already: it is posted again, and nothing moves.
        """
        past, later = self._apart(at, _OPEN, _IMPORT, _CHANGE)
        row = self._row
        if not later and (row.next_tier is not None or not past):
            return _Tiers(row.tier, row.next_tier, row.next_tier_at)
        if not past:
            return _Tiers(later[0].detail.get("previous_tier", row.tier))
        *_, last = _in_their_order(past)
        if (named := last.detail.get("effective_at")) is None or last.type != _CHANGE:
            return _Tiers(last.detail["tier"])
        begins = [
            grant.period.start for grant in self.grants(at) if grant.is_named and grant.at >= last.recorded_at
        ]
        start = min([datetime.fromisoformat(named), *begins])
        canceled = [
            happened for happened in self._apart(at, _CANCEL)[0] if happened.recorded_at >= last.recorded_at
        ]
        if canceled and canceled[0].recorded_at < start:
            return _Tiers(last.detail["previous_tier"])
        return _Tiers(last.detail["previous_tier"], last.detail["tier"], start)

    @property
    def was_opened_by_command(self) -> bool:
        """True where ``account.open`` opened the account and posted its first allocation with that."""
        return any(happened.type == _OPEN for happened in self._happened)

    def ends_at(self, at: datetime) -> datetime | None:
        """Return the time when the subscription ended or was to end; None while it went on."""
        past, later = self._apart(at, _CHANGE, _CANCEL)
        if not later:
            end: datetime | None = self._row.ends_at
            return end
        if not past or past[-1].type == _CHANGE:
            return None
        return datetime.fromisoformat(past[-1].detail["period_end"])

    @property
    def has_named_periods(self) -> bool:
        """True where a gateway has named a period."""
        return any(_is_named(happened) for happened in self._happened)

    def first_anchor(self) -> datetime:
        """Return the time from which periods counted before a gateway named one."""
        for happened in self._happened:
            if happened.type == _IMPORT:
                return datetime.fromisoformat(json.loads(happened.content)["anchor"])
        opened_at: datetime = self._row.opened_at
        return opened_at

    def grants(self, at: datetime) -> list[_Grant]:
        """Return the periods that commands granted, or cut short, until ``at``."""
        found = []
        for row in self._apart(at, _IMPORT, _CHANGE, _RENEW, _CANCEL)[0]:
            end, is_cut = row.detail.get("period_end"), _is_cut(row)
            if end is not None and (row.type != _CANCEL or is_cut):
                start = row.detail.get("period_start", row.recorded_at.isoformat())
                period = Period(datetime.fromisoformat(start), datetime.fromisoformat(end))
                found.append(_Grant(row.recorded_at, period, _is_named(row), is_cut))
        return found

    def period_ends(self, at: datetime, since: datetime | None) -> list[datetime]:
        """Return the ends of the periods that commands granted or named until ``at``, from a time on."""
        canceled = [row for row in self._apart(at, _CANCEL)[0] if not _is_cut(row)]
        ends = [(row.recorded_at, datetime.fromisoformat(row.detail["period_end"])) for row in canceled]
        # A cancellation takes effect with the end of the granted period, or at once.
        named = [(when, end) for when, end in ends if end > when]
        named += [(grant.at, grant.period.end) for grant in self.grants(at)]
        named += [(turn, turn) for turn in self.turns(at)]
        return [end for when, end in named if since is None or when >= since]

    def turns(self, at: datetime) -> list[datetime]:
        """Return when tiers followed until ``at``, which had been chosen before."""
        past, _ = self._apart(at, _CHANGE, _CANCEL)
        found = []
        for row, following in zip_longest(past, past[1:]):
            if (named := row.detail.get("effective_at")) is None:
                continue
            turn = datetime.fromisoformat(named)
            if turn <= at and (following is None or following.recorded_at >= turn):
                found.append(turn)
        return found

    def last_cut(self, at: datetime) -> datetime | None:
        """Return when a cancellation last gave up a period that was granted ahead."""
        cuts = [row.recorded_at for row in self._apart(at, _CANCEL)[0] if _is_cut(row)]
        return cuts[-1] if cuts else None

    def was_cut_short(self, after: datetime, before: datetime) -> bool:
        """Return True if it was canceled at once between these times, which ended what was to take effect."""
        _, later = self._apart(after, _CANCEL)
        return any(row.recorded_at < before and json.loads(row.content)["at"] == "now" for row in later)

    def _apart(self, at: datetime, *types: str) -> tuple[list[_Happened], list[_Happened]]:
        """Return the commands of ``types`` until ``at``, and those later."""
        found = [happened for happened in self._happened if happened.type in types]
        past = [happened for happened in found if happened.recorded_at <= at]
        return past, found[len(past) :]


def _subscription(connection: Connection, row: Row[Any]) -> _Subscription:
    operation = operations.c
    statement = (
        select(operation.type, operation.detail, operation.content, operation.recorded_at)
        .where(operation.slot == row.slot, operation.user_id == row.user_id)
        .where(operation.status == Status.APPLIED.value)
        .where(operation.type.in_([_OPEN, _IMPORT, _CHANGE, _RENEW, _CANCEL]))
        # One that came late has changed nothing of the subscription.
        .where(operation.code != Code.CANCELLATION_LATE.value)
        .order_by(operation.recorded_at, func.coalesce(last_entry(), 0), operation.operation_id)
    )
    return _Subscription(row, [_Happened(*happened) for happened in connection.execute(statement)])


def _granted_at(
    row: Row[Any], at: datetime, subscription: _Subscription, granted: Sequence[_Granted]
) -> AccountState:
    """Return a state with the anchor and the last granted period as they were at ``at``.

    Where a gateway has named periods, all that were granted by then are granted again.
    """
    state = state_in(row)
    if not subscription.has_named_periods:
        state.granted_until = _last_end(row, at, subscription, granted)
        return state
    state.anchor = state.granted_until = anchor = subscription.first_anchor()
    state.granted_from = None
    if subscription.was_opened_by_command:
        state.granted_until = period_at(anchor, anchor).end
    commands = subscription.grants(at)
    named_at = {grant.at for grant in commands if grant.is_named}
    due = [
        _Grant(grant.granted_at, Period(grant.lot.effective_at, grant.lot.expires_at), is_named=False)
        for grant in granted
        if grant.is_period and grant.is_there(at) and grant.granted_at and grant.lot.expires_at
    ]
    due = [grant for grant in due if grant.at not in named_at]
    turns = [_Grant(turn, Period(turn, turn), is_named=False) for turn in subscription.turns(at)]
    for grant in sorted([*due, *commands, *turns], key=lambda one: (one.at, one.is_named, one.period.end)):
        begin = begin_gateways if grant.is_named else begin_own
        is_turn = grant.period.start == grant.period.end
        if (is_turn or not grant.is_named) and grant.period.end == state.granted_until:
            continue  # the tier changed within what was granted
        if is_turn and grant.period.end < state.granted_until:
            continue
        if grant.is_cut:
            give_up_ahead(state, grant.period.end, grant.at)
        else:
            begin(state, grant.period, grant.at)
    return state


def _last_end(
    row: Row[Any], at: datetime, subscription: _Subscription, granted: Sequence[_Granted]
) -> datetime:
    """Return the end of the last period that was granted, by its grants since it was last cut short.

    Only a renewal that grants nothing leaves no trace: the next look at the account finds it due again,
    unless the subscription was canceled at once meanwhile.
    """
    periods = [grant for grant in granted if grant.is_period]
    cut = subscription.last_cut(at)
    there = [grant for grant in periods if grant.is_there(at)]
    ends = [
        grant.lot.expires_at
        for grant in there
        if cut is None or (grant.granted_at is not None and grant.granted_at > cut)
    ]
    known = [end for end in (*ends, *subscription.period_ends(at, cut)) if end is not None]
    if row.imported_at is not None:
        return max(known)
    if _is_carried_over(row, granted):
        if known:
            return max(known)
        # It was granted until the month after the migration, which only today's row tells; at the latest it
        # ended where the next period that was granted begins.
        later = [grant.lot.effective_at for grant in periods if not grant.is_there(at)]
        present: datetime = row.granted_until
        return min(later, default=present)
    # Opened otherwise, its first allocation fell due and was posted later.
    first = period_at(row.anchor, row.anchor).end if subscription.was_opened_by_command else row.anchor
    return max([first, *known])


def _is_carried_over(row: Row[Any], granted: Sequence[_Granted]) -> bool:
    """Return True for an account that is older than its lots: its periods begin with the month then."""
    is_older: bool = row.anchor < row.opened_at
    return is_older or any(grant.lot.source is Source.CARRIED_OVER for grant in granted)
