"""Parts of a balance: lots, and the holds on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Row, select, tuple_

from worker.catalog import Catalog
from worker.core import Account, Hold, HoldState, Lot
from worker.errors import QueryError
from worker.ledger import rows
from worker.ledger.bulk import among
from worker.ledger.loading import holds_of
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.snapshots import IN_FORCE, AccountKey, key_of, on_operation, values_of, within
from worker.ledger.queries.views import View
from worker.ledger.tables import holds, lots, operations

LOTS_LIMIT_MAX = HOLDS_LIMIT_MAX = 1_000


@dataclass(frozen=True)
class LotView(View):
    """Credit: of ``granted`` tokens ``remaining`` are left, ``held`` of them kept by holds.

    ``pending`` ones take effect at ``effective_at``. ``free`` is what is spent next, the lower ``priority``
    first; from ``expires_at`` on nothing is left but what is held. ``parent`` is the number of the lot it
    belongs to. ``reference_id`` granted it; None for what was carried over, and for what is due and not
    posted yet (``is_booked``).
    """

    number: int
    source: str
    granted: int
    remaining: int
    held: int
    free: int
    pending: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    parent: int | None
    reference_id: str | None
    is_booked: bool


@dataclass(frozen=True)
class Lots(View):
    """Lots of an account: first those with something left, in the order in which they are spent."""

    user_id: str
    lots: tuple[LotView, ...]
    has_more: bool


@dataclass(frozen=True)
class HoldPart(View):
    """Part of a hold: so many ``tokens`` of a lot, by its number."""

    lot: int
    tokens: int


@dataclass(frozen=True)
class HoldView(View):
    """Tokens kept for work to come, and how that ended: ``captured`` of ``amount`` were taken.

    ``state`` is open, settled, released or expired. ``closed_by`` is the reference that ended it; None while
    it is open, and where it ran out and that is not posted yet.
    """

    reference_id: str
    state: str
    amount: int
    captured: int
    opened_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    parts: tuple[HoldPart, ...]


@dataclass(frozen=True)
class Holds(View):
    """Holds of an account: the open ones, the oldest first, then ended ones, the newest first."""

    user_id: str
    holds: tuple[HoldView, ...]
    has_more: bool


# -- lots -------------------------------------------------------------------------------------------------


def lots_of(
    connection: Connection,
    user_id: str,
    now: datetime,
    catalog: Catalog,
    *,
    used_up: bool,
    limit: int | None = None,
    behind: int | None = None,
) -> Lots:
    """Return the lots of ``user_id`` at ``now`` (UTC); ``used_up`` adds empty ones.

    A page has ``limit`` of them, or all; ``behind`` is the number of the last lot of the page before. Raises
    NotFoundError, and QueryError for a limit outside 1 to 1000 or a lot that is not listed.
    """
    within("limit", LOTS_LIMIT_MAX if limit is None else limit, 1, LOTS_LIMIT_MAX)
    account = posted_state(connection, user_id).now(now, catalog)
    found = _in_order(account)
    if used_up:
        found += sorted(_used_up(connection, account), key=lambda lot: -lot.number)
    left = _lots_behind(found, behind)
    shown = left[:limit]
    references = _references(connection, key_of(account.state), [lot.operation_id for lot in shown])
    views = tuple(lot_view(lot, references) for lot in shown)
    return Lots(user_id, views, has_more=len(left) > len(shown))


def _lots_behind(found: list[Lot], number: int | None) -> list[Lot]:
    if number is None:
        return found
    numbers = [lot.number for lot in found]
    if number not in numbers:
        raise QueryError(f"lot {number} is not in this list (any more): begin with the first page")
    return found[numbers.index(number) + 1 :]


def lot_view(lot: Lot, references: Mapping[int, str]) -> LotView:
    """Return the lot as it is shown; ``references`` are those of operations."""
    return LotView(
        number=lot.number,
        source=lot.source.value,
        granted=lot.granted,
        remaining=lot.remaining,
        held=lot.held,
        free=lot.free,
        pending=lot.pending,
        priority=lot.priority,
        effective_at=lot.effective_at,
        expires_at=lot.expires_at,
        parent=lot.parent,
        reference_id=None if lot.operation_id is None else references[lot.operation_id],
        is_booked=lot.outcome is None,
    )


def _in_order(account: Account) -> list[Lot]:
    """Return the lots in burn order, then those held to the last token, then those that take effect later."""
    spent = [lot for lot, _ in account.burning()]
    held = [lot for lot in account.lots.values() if lot.remaining and not lot.free]
    pending = [lot for lot in account.lots.values() if lot.pending]
    return spent + held + sorted(pending, key=lambda lot: (lot.effective_at, lot.number))


def _used_up(connection: Connection, account: Account) -> list[Lot]:
    key = key_of(account.state)
    statement = select(*(lots.c[name] for name in rows.LOT)).where(key.owns(lots), ~lots.c.is_open)
    emptied = [lot for lot in account.lots.values() if not lot.remaining and not lot.pending]
    return [*emptied, *(rows.lot(row) for row in connection.execute(statement))]


def _references(
    connection: Connection, key: AccountKey, operation_ids: Iterable[int | None]
) -> dict[int, str]:
    """Return the references of these operations of an account."""
    ids = sorted({operation_id for operation_id in operation_ids if operation_id is not None})
    if not ids:
        return {}
    statement = select(operations.c.operation_id, operations.c.reference_id).where(
        operations.c.slot == key.slot, among(connection, operations.c.operation_id, ids)
    )
    return {row.operation_id: row.reference_id for row in connection.execute(statement)}


# -- holds ------------------------------------------------------------------------------------------------


def holds_of_user(
    connection: Connection,
    user_id: str,
    now: datetime,
    catalog: Catalog,
    *,
    ended: bool,
    limit: int,
    behind: str | None = None,
) -> Holds:
    """Return the open holds of ``user_id`` at ``now`` (UTC); with ``ended`` up to ``limit`` others as well.

    ``behind`` is the reference of an ended hold: only those after it are returned. Raises NotFoundError, and
    QueryError for a limit outside 1 to 1000 or a reference of no ended hold.
    """
    within("limit", limit, 1, HOLDS_LIMIT_MAX)
    account = posted_state(connection, user_id).now(now, catalog)
    found = list(account.holds.values())
    shown = [hold_view(hold, None) for hold in found if hold.state is HoldState.OPEN]
    if not ended and behind is None:
        return Holds(user_id, tuple(shown), has_more=False)
    ran_out = [hold_view(hold, None) for hold in reversed(found) if hold.state is not HoldState.OPEN]
    closed = _behind(ran_out, behind) + _closed(
        connection, key_of(account.state), limit + 1, _place(connection, account, behind)
    )
    first = shown if behind is None else []
    return Holds(user_id, tuple(first + closed[:limit]), has_more=len(closed) > limit)


def _behind(views: list[HoldView], reference_id: str | None) -> list[HoldView]:
    """Return the views behind a reference; all without one, none where it isn't among them."""
    if reference_id is None:
        return views
    references = [view.reference_id for view in views]
    return views[references.index(reference_id) + 1 :] if reference_id in references else []


def _place(connection: Connection, account: Account, reference_id: str | None) -> Row[Any] | None:
    """Return the place of a closed hold; None without a reference, and for a hold that only ran out."""
    if reference_id is None or reference_id in {hold.reference_id for hold in account.holds.values()}:
        return None
    statement = (
        select(*_NEWEST_LAST)
        .join(operations, on_operation(holds.c.operation_id))
        .where(key_of(account.state).owns(holds), operations.c.reference_id == reference_id, IN_FORCE)
    )
    place = connection.execute(statement).one_or_none()
    if place is None:
        raise QueryError(f"{reference_id!r} is no hold of this user: take the cursor of the page before")
    return place


# Holds of one batch are opened at one time: their references make the order total.
_NEWEST_LAST: tuple[Column[Any], ...] = (holds.c.opened_at, holds.c.reference_id)


def hold_view(hold: Hold, closed_by: str | None) -> HoldView:
    """Return the hold as it is shown."""
    return HoldView(
        reference_id=hold.reference_id,
        state=hold.state.value,
        amount=hold.amount,
        captured=hold.captured,
        opened_at=hold.opened_at,
        expires_at=hold.expires_at,
        closed_at=hold.closed_at,
        closed_by=closed_by,
        parts=tuple(HoldPart(lot, tokens) for lot, tokens in hold.parts),
    )


def _closed(connection: Connection, key: AccountKey, limit: int, below: Row[Any] | None) -> list[HoldView]:
    statement = (
        select(holds)
        .where(key.owns(holds), holds.c.state != HoldState.OPEN.value)
        .order_by(*(column.desc() for column in _NEWEST_LAST))
        .limit(limit)
    )
    if below is not None:
        statement = statement.where(tuple_(*_NEWEST_LAST) < values_of(_NEWEST_LAST, below))
    found = holds_of(connection, statement)
    closers = closed_by(connection, key, [hold.operation_id for hold in found])
    return [hold_view(hold, closers.get(hold.operation_id)) for hold in found]


def closed_by(
    connection: Connection, key: AccountKey, operation_ids: Sequence[int | None]
) -> dict[int | None, str]:
    """Return the references that ended these holds of an account, by the operation that opened them."""
    statement = (
        select(holds.c.operation_id, operations.c.reference_id)
        .join(operations, on_operation(holds.c.closed_by))
        .where(holds.c.slot == key.slot, among(connection, holds.c.operation_id, operation_ids))
    )
    return {row.operation_id: row.reference_id for row in connection.execute(statement)}
