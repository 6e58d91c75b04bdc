"""Tokens that payments sold, and what became of them over time: used, expired, taken back, outstanding.

A payment's own lots are those that its operation made: what was bought and the bonus beside it, or the
allocation of the period that was paid, and what rolled over of that. Tokens that never reached a lot, since
they repaid a debt, were used before they were sold.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import groupby
from typing import Any

from sqlalchemy import CTE, Connection, Row, Select, and_, func, literal, or_, select, union_all

from worker.catalog import PaymentPolicy
from worker.core import Counter, Source
from worker.ledger.queries.reports.paid import (
    MovedBack,
    PaymentKey,
    by_operation,
    group_labels,
    group_of,
    returned_payments,
    was_imported,
)
from worker.ledger.queries.reports.reading import (
    by_import,
    imports_in,
    period_of,
    read_tables_whole,
    streamed,
    was_brought,
)
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.table import Group
from worker.ledger.slots import Slots, in_slots
from worker.ledger.tables import entries, lots, operations, payment_events, payments

#: Counter-accounts that fill a lot with what was sold.
_FILLING = frozenset({Counter.ALLOCATION, Counter.PURCHASES, Counter.BONUS})


@dataclass(slots=True)
class TokensGone:
    """Tokens of a payment that went in a part of the range; negative where more came back."""

    used: int = 0
    expired: int = 0
    taken_back: int = 0

    def add(self, other: "TokensGone") -> None:
        """Add what went in another part."""
        self.used += other.used
        self.expired += other.expired
        self.taken_back += other.taken_back


@dataclass(slots=True)
class SoldTokens:
    """Payment in the parts of a range: its money, its tokens, and what went of both, by part.

    ``brought`` is what had gone of one that an import brought, before it came.
    """

    group: Group
    period: int
    is_import: bool
    amount_minor: int
    tokens: int
    gone: dict[int, TokensGone] = field(default_factory=dict)
    brought: TokensGone = field(default_factory=TokensGone)
    back: dict[int, int] = field(default_factory=dict)

    def of(self, period: int, *, is_brought: bool = False) -> TokensGone:
        """Return what went in a part of the range, to be added to."""
        return self.brought if is_brought else self.gone.setdefault(period, TokensGone())


@dataclass(slots=True)
class _Lot:
    """Lot of a payment, with the tokens credited to it and the part of the range in which that was."""

    row: Row[Any]
    credited: int = 0
    credited_in: int | None = None


def sold_tokens(
    connection: Connection, request: ReportRequest, policy: PaymentPolicy
) -> Iterator[SoldTokens]:
    """Yield the payments that were posted before the end of the range, one at a time."""
    read_tables_whole(connection)
    # Each stream has one order, and all of it about one payment is together.
    streams = (
        _tagged(0, _payments(connection, request)),
        _tagged(1, _lots(connection)),
        _tagged(2, _entries(connection, request)),
        (((one.key, 3), one) for one in returned_payments(connection, request, policy)),
    )
    found = merge(*streams, key=lambda tagged: tagged[0])
    for _, about in groupby(found, key=lambda tagged: tagged[0][0]):
        if (sold := _sold(request, list(about))) is not None:
            yield sold


_Tagged = tuple[tuple[PaymentKey, int], Any]


def _tagged(place: int, rows: Iterator[Row[Any]]) -> Iterator[_Tagged]:
    return (((PaymentKey(row.slot, row.operation_id), place), row) for row in rows)


# -- one payment ------------------------------------------------------------------------------------------


def _sold(request: ReportRequest, about: list[_Tagged]) -> SoldTokens | None:
    """Return a payment of all rows about it; None for one that was posted after the range."""
    (_, place), payment = about[0]
    if place != 0:
        return None
    sold = SoldTokens(
        group=group_of(payment, request),
        period=payment.period,
        is_import=bool(payment.is_import),
        amount_minor=payment.amount_minor,
        tokens=payment.base_tokens + payment.bonus_tokens,
    )
    own: dict[int, _Lot] = {}
    for (_, kind), row in about[1:]:
        match kind:
            case 1:
                own[row.number] = _Lot(row)
            case 2:
                _add_entries(sold, own[row.number], row)
            case 3:
                _add_moved(sold, row.moved, request)
    for lot in own.values():
        if not lot.row.is_heir:
            _add_unfilled(sold, lot, payment.recorded_at, request)
    return sold


def _add_moved(sold: SoldTokens, moves: tuple[MovedBack, ...], request: ReportRequest) -> None:
    for moved in moves:
        period = request.periods.number_of(moved.posted_at)
        sold.back[period] = sold.back.get(period, 0) + moved.money.minor


def _add_entries(sold: SoldTokens, lot: _Lot, row: Row[Any]) -> None:
    """Add the sum of a lot's entries with one counter-account in one part of the range."""
    counter, amount = Counter(row.counter), int(row.amount)
    if counter in _FILLING:
        lot.credited += amount
        lot.credited_in = row.period if lot.credited_in is None else min(lot.credited_in, row.period)
        return
    gone = sold.of(row.period, is_brought=bool(row.is_brought))
    if counter is Counter.EXPIRY:
        gone.expired -= amount
    elif counter is Counter.REVERSALS and row.is_own:
        gone.taken_back -= amount
    else:
        gone.used -= amount


def _add_unfilled(sold: SoldTokens, lot: _Lot, paid_at: datetime, request: ReportRequest) -> None:
    """Add the tokens that were not credited to the lot: they repaid a debt, or were given up ahead."""
    row = lot.row
    missing = row.granted - lot.credited - row.pending
    if not missing:
        return
    if row.effective_at <= paid_at:
        sold.of(sold.period, is_brought=sold.is_import).used += missing
    elif lot.credited_in is not None:
        sold.of(lot.credited_in).used += missing
    elif row.ended_at is not None:
        sold.of(request.periods.number_of(row.ended_at)).expired += missing
    else:
        sold.of(request.periods.number_of(row.effective_at)).used += missing


# -- the streams ------------------------------------------------------------------------------------------


def _payments(connection: Connection, request: ReportRequest) -> Iterator[Row[Any]]:
    def select_in(slots: Slots) -> Select[Any]:
        return (
            select(
                payments.c.slot,
                payments.c.operation_id,
                payments.c.recorded_at,
                payments.c.amount_minor,
                payments.c.base_tokens,
                payments.c.bonus_tokens,
                period_of(connection, payments.c.recorded_at, request.periods).label("period"),
                was_imported().label("is_import"),
                *group_labels(connection, request),
            )
            .select_from(payments)
            .join(operations, by_operation())
            .where(in_slots(payments.c.slot, slots), payments.c.recorded_at < request.end)
            .order_by(payments.c.slot, payments.c.operation_id)
        )

    return streamed(connection, select_in)


def _own_lots(slots: Slots) -> CTE:
    """Return the lots of payments, each with the operation of its payment."""
    made = _made(slots)
    lot = lots.alias("heir")
    heirs = (
        select(
            made.c.slot,
            made.c.operation_id,
            made.c.account_id,
            lot.c.number,
            lot.c.granted,
            lot.c.pending,
            lot.c.effective_at,
            lot.c.ended_at,
            literal(value=True).label("is_heir"),
        )
        .select_from(made)
        .join(
            lot,
            and_(
                lot.c.slot == made.c.slot,
                lot.c.account_id == made.c.account_id,
                lot.c.parent == made.c.number,
                lot.c.source == Source.ALLOCATION.value,
            ),
        )
        .where(in_slots(lot.c.slot, slots))
    )
    return union_all(select(made), heirs).cte("own_lots")


def _made(slots: Slots) -> CTE:
    """Return the lots that the operations of payments made.

    Of a tier it is the last allocation: what was due was posted before. Of a package it is the first
    purchase: another one holds what an event gave back when the first had no room.
    """
    lot, payment = lots.c, payments.c
    is_bought = and_(payment.package_id.is_not(None), lot.source == Source.PURCHASE.value)
    is_bonus = and_(payment.package_id.is_not(None), lot.source == Source.PURCHASE_BONUS.value)
    is_period = and_(
        payment.tier.is_not(None),
        payment.base_tokens > 0,
        lot.source == Source.ALLOCATION.value,
        lot.parent.is_(None),
    )
    numbers = (
        select(
            payment.slot,
            payment.operation_id,
            payment.account_id,
            lot.source,
            func.min(lot.number).label("first"),
            func.max(lot.number).label("last"),
        )
        .join_from(payments, lots, and_(lot.slot == payment.slot, lot.operation_id == payment.operation_id))
        .where(in_slots(payment.slot, slots), or_(is_bought, is_bonus, is_period))
        .group_by(payment.slot, payment.operation_id, payment.account_id, lot.source)
        .subquery("numbers")
    )
    is_allocation = numbers.c.source == Source.ALLOCATION.value
    return (
        select(
            numbers.c.slot,
            numbers.c.operation_id,
            numbers.c.account_id,
            lot.number,
            lot.granted,
            lot.pending,
            lot.effective_at,
            lot.ended_at,
            literal(value=False).label("is_heir"),
        )
        .select_from(numbers)
        .join(
            lots,
            and_(
                lot.slot == numbers.c.slot,
                lot.account_id == numbers.c.account_id,
                or_(
                    and_(~is_allocation, lot.number == numbers.c.first),
                    and_(is_allocation, lot.number == numbers.c.last),
                ),
            ),
        )
        .where(in_slots(lot.slot, slots))
        .cte("made")
    )


def _lots(connection: Connection) -> Iterator[Row[Any]]:
    def select_in(slots: Slots) -> Select[Any]:
        own = _own_lots(slots)
        return select(own).order_by(own.c.slot, own.c.operation_id, own.c.number)

    return streamed(connection, select_in)


def _entries(connection: Connection, request: ReportRequest) -> Iterator[Row[Any]]:
    """Yield the sums of the entries of payments' lots, those after the range included.

    A lot that takes effect after the range is told by its entries from one that never will.
    """

    def select_in(slots: Slots) -> Select[Any]:
        own, imports = _own_lots(slots), imports_in(slots)
        reversals = _reversals(slots).subquery("reversals")
        place = (own.c.slot, own.c.operation_id, own.c.number)
        kinds = (
            period_of(connection, entries.c.recorded_at, request.periods).label("period"),
            entries.c.counter,
            was_brought(imports).label("is_brought"),
            reversals.c.operation_id.is_not(None).label("is_own"),
        )
        return (
            select(*place, *kinds, func.sum(entries.c.amount).label("amount"))
            .select_from(own)
            .join(
                entries,
                and_(
                    entries.c.slot == own.c.slot,
                    entries.c.account_id == own.c.account_id,
                    entries.c.lot == own.c.number,
                ),
            )
            .outerjoin(imports, by_import(imports))
            .outerjoin(
                reversals,
                and_(
                    entries.c.counter == Counter.REVERSALS.value,
                    reversals.c.slot == entries.c.slot,
                    reversals.c.operation_id == entries.c.operation_id,
                    reversals.c.payment_operation == own.c.operation_id,
                ),
            )
            .where(in_slots(entries.c.slot, slots))
            .group_by(*place, *kinds)
            .order_by(*place)
        )

    return streamed(connection, select_in)


def _reversals(slots: Slots) -> Select[Any]:
    """Select the operations that moved tokens for a payment's events, with that of the payment."""
    event, payment = payment_events.c, payments.c
    return (
        select(event.slot, event.operation_id, payment.operation_id.label("payment_operation"))
        .join_from(
            payment_events,
            payments,
            and_(payment.slot == event.slot, payment.reference_id == event.payment_reference),
        )
        .where(in_slots(event.slot, slots))
        .distinct()
    )
