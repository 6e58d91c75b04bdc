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
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, or_, select

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    ImportAccount,
    OpenAccount,
    RenewSubscription,
    Status,
    type_of,
)
from worker.core import AccountState, Counter, Hold, Lot, Source
from worker.core.lots import COUNTER_OF
from worker.core.periods import period_at
from worker.errors import NotFoundError
from worker.ledger import rows
from worker.ledger.loading import holds_of
from worker.ledger.queries.freezing import freezing_at
from worker.ledger.queries.posted import PostedState, state_in
from worker.ledger.queries.snapshots import AccountKey, account_row, last_posted, on_operation, posted_at
from worker.ledger.tables import entries, holds, lots, operations

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
    return replace(
        present,
        tier=subscription.tier_at(at),
        ends_at=subscription.ends_at(at),
        granted_until=_granted_until(row, at, subscription, granted),
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


class _Subscription:
    """Applied commands about an account's subscription, in order.

    The order of two commands in one transaction that wrote no entries is unknown.
    """

    def __init__(self, row: Row[Any], happened: Sequence[_Happened]) -> None:
        self._row, self._happened = row, happened

    def tier_at(self, at: datetime) -> str:
        """Return the tier that was set last by ``at``; today's where no command set one since.

        An account that another command than ``account.open`` opened had the tier that was changed first.
        """
        past, later = self._apart(at, _OPEN, _IMPORT, _CHANGE)
        tier: str = self._row.tier
        if not later:
            return tier
        return past[-1].detail["tier"] if past else later[0].detail.get("previous_tier", tier)

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

    def period_ends(self, at: datetime) -> list[datetime]:
        """Return the ends of the periods that were granted or named by command until ``at``."""
        past, _ = self._apart(at, _IMPORT, _CHANGE, _RENEW, _CANCEL)
        ends = [(datetime.fromisoformat(row.detail["period_end"]), row) for row in past]
        # A cancellation takes effect with the end of the granted period, or at once.
        return [end for end, row in ends if row.type != _CANCEL or end > row.recorded_at]

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
        .order_by(operation.recorded_at, func.coalesce(operation.last_entry, 0), operation.operation_id)
    )
    return _Subscription(row, [_Happened(*happened) for happened in connection.execute(statement)])


def _granted_until(
    row: Row[Any], at: datetime, subscription: _Subscription, granted: Sequence[_Granted]
) -> datetime:
    """Return the end of the last period that was granted. It never moves back, and each move is recorded.

    Only a renewal that grants nothing leaves no trace: the next look at the account finds it due again,
    unless the subscription was canceled at once meanwhile.
    """
    periods = [grant for grant in granted if grant.is_period]
    ends = [grant.lot.expires_at for grant in periods if grant.is_there(at)]
    known = [end for end in (*ends, *subscription.period_ends(at)) if end is not None]
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
