"""Parts of a balance: lots, the holds on them, and what is about to expire."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, literal, select, tuple_

from worker.catalog import Catalog
from worker.core import Account, AccountState, Counter, Hold, HoldState, Lot, account_now
from worker.ledger import rows
from worker.ledger.bulk import among
from worker.ledger.loading import holds_of, open_holds, open_lots
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.tables import accounts, holds, lots, operations

HOLDS_LIMIT_MAX = 1_000
EXPIRING_DAYS_MAX = 3_660
_PAGE = 500


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


@dataclass(frozen=True)
class Expiring(View):
    """Tokens of a lot that will be lost when it expires, if nobody uses them before."""

    user_id: str
    lot: int
    source: str
    tokens: int
    expires_at: datetime


# -- lots -------------------------------------------------------------------------------------------------


def lots_of(connection: Connection, user_id: str, now: datetime, catalog: Catalog, *, used_up: bool) -> Lots:
    """Return the lots of ``user_id`` at ``now`` (UTC); ``used_up`` adds empty ones. Raises NotFoundError."""
    account = posted_state(connection, user_id).now(now, catalog)
    shown = _in_order(account)
    if used_up:
        shown += sorted(_used_up(connection, account), key=lambda lot: -lot.number)
    references = _references(connection, [lot.operation_id for lot in shown])
    return Lots(user_id, tuple(lot_view(lot, references) for lot in shown))


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
    account_id = account.state.account_id
    statement = select(*(lots.c[name] for name in rows.LOT)).where(
        lots.c.account_id == account_id, ~lots.c.is_open
    )
    emptied = [lot for lot in account.lots.values() if not lot.remaining and not lot.pending]
    return [*emptied, *(rows.lot(row) for row in connection.execute(statement))]


def _references(connection: Connection, operation_ids: Iterable[int | None]) -> dict[int, str]:
    """Return the references of these operations."""
    ids = sorted({operation_id for operation_id in operation_ids if operation_id is not None})
    if not ids:
        return {}
    statement = select(operations.c.operation_id, operations.c.reference_id).where(
        among(connection, operations.c.operation_id, ids)
    )
    return {row.operation_id: row.reference_id for row in connection.execute(statement)}


# -- holds ------------------------------------------------------------------------------------------------


def holds_of_user(
    connection: Connection, user_id: str, now: datetime, catalog: Catalog, *, ended: bool, limit: int
) -> Holds:
    """Return the open holds of ``user_id`` at ``now`` (UTC); with ``ended`` up to ``limit`` others as well.

    Raises NotFoundError, and QueryError for a limit outside 1 to 1000.
    """
    within("limit", limit, 1, HOLDS_LIMIT_MAX)
    account = posted_state(connection, user_id).now(now, catalog)
    found = list(account.holds.values())
    shown = [hold_view(hold, None) for hold in found if hold.state is HoldState.OPEN]
    if not ended:
        return Holds(user_id, tuple(shown), has_more=False)
    ran_out = [hold_view(hold, None) for hold in reversed(found) if hold.state is not HoldState.OPEN]
    closed = ran_out + _closed(connection, account.state.account_id, limit + 1)
    return Holds(user_id, tuple(shown + closed[:limit]), has_more=len(closed) > limit)


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


def _closed(connection: Connection, account_id: int, limit: int) -> list[HoldView]:
    statement = (
        select(holds)
        .where(holds.c.account_id == account_id, holds.c.state != HoldState.OPEN.value)
        .order_by(holds.c.operation_id.desc())
        .limit(limit)
    )
    found = holds_of(connection, statement)
    closers = closed_by(connection, [hold.operation_id for hold in found])
    return [hold_view(hold, closers.get(hold.operation_id)) for hold in found]


def closed_by(connection: Connection, operation_ids: Sequence[int | None]) -> dict[int | None, str]:
    """Return the references that ended these holds, by the operation that opened them."""
    statement = (
        select(holds.c.operation_id, operations.c.reference_id)
        .join(operations, operations.c.operation_id == holds.c.closed_by)
        .where(among(connection, holds.c.operation_id, operation_ids))
    )
    return {row.operation_id: row.reference_id for row in connection.execute(statement)}


# -- what is about to expire ------------------------------------------------------------------------------


def expiring(
    connection: Connection, user_id: str, now: datetime, days: int, catalog: Catalog
) -> Iterator[Expiring]:
    """Yield the tokens of ``user_id`` that expire until ``days`` after ``now`` (UTC), in the order of time.

    The worker would post the same then if nobody touched the account: what rolls over isn't lost, and what a
    hold keeps is lost when the hold runs out. Raises NotFoundError, and QueryError for days outside
    1 to 3660.
    """
    until = _horizon(now, days)
    yield from _lost(posted_state(connection, user_id).now(now, catalog), until, catalog)


def all_expiring(connection: Connection, now: datetime, days: int, catalog: Catalog) -> Iterator[Expiring]:
    """Yield the same for all users, account by account: the one that has something due next comes first.

    Reads only the accounts that have something due by then, a page of them at a time. Raises QueryError for
    days outside 1 to 3660.
    """
    until = _horizon(now, days)
    for states in _due_by(connection, until):
        ids = [state.account_id for state in states]
        own_lots = open_lots(connection, ids)
        own_holds = open_holds(connection, [state.account_id for state in states if state.held])
        for state in states:
            lots_, holds_ = own_lots.get(state.account_id, ()), own_holds.get(state.account_id, ())
            yield from _lost(account_now(state, lots_, holds_, now, catalog), until, catalog)


def _horizon(now: datetime, days: int) -> datetime:
    within("days", days, 1, EXPIRING_DAYS_MAX)
    return now + timedelta(days=days)


def _lost(present: Account, until: datetime, catalog: Catalog) -> list[Expiring]:
    """Return the tokens that ``present`` will lose until ``until``."""
    lots_, holds_ = list(present.lots.values()), list(present.holds.values())
    then = account_now(present.state, lots_, holds_, until, catalog)
    return [
        Expiring(
            user_id=present.state.user_id,
            lot=entry.lot,
            source=then.lots[entry.lot].source.value,
            tokens=-entry.amount,
            expires_at=entry.due_at,
        )
        for entry in then.written.entries
        if entry.counter is Counter.EXPIRY and entry.lot is not None and entry.due_at is not None
    ]


def _due_by(connection: Connection, until: datetime) -> Iterator[list[AccountState]]:
    """Yield pages of the accounts that have something due by ``until``, the soonest first."""
    place = (accounts.c.due_at, accounts.c.account_id)
    first = (
        select(*(accounts.c[name] for name in rows.ACCOUNT))
        .where(accounts.c.due_at <= until)
        .order_by(*place)
        .limit(_PAGE)
    )
    page = connection.execute(first).all()
    while page:
        yield [rows.account(row) for row in page]
        last = page[-1]
        behind = (literal(last.due_at, accounts.c.due_at.type), literal(last.account_id))
        page = connection.execute(first.where(tuple_(*place) > tuple_(*behind))).all()
