"""Sums of each slot: rows of each table, and what the whole report and the later checks need."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table, func, select

from worker.ledger.audit.outcomes import CLAIMED
from worker.ledger.audit.scope import Scope, scope_of
from worker.ledger.slots import Slots
from worker.ledger.tables import (
    accounts,
    entries,
    holds,
    lots,
    operations,
    payment_events,
    payments,
    quota_entries,
    quotas,
    usage_refunds,
)

#: Sums by their names: the number of rows by the name of each table, and those of ``_MORE``.
Sums = Counter[str]

EXAMINED = (
    accounts,
    operations,
    entries,
    lots,
    holds,
    usage_refunds,
    payments,
    payment_events,
    quotas,
    quota_entries,
)

_debt = accounts.c.debt
_MORE: Mapping[FromClause, Mapping[str, ColumnElement[Any]]] = {
    # Entries that the accounts have by their sequences, and those that operations claim as their own.
    accounts: {
        "posted": func.sum(accounts.c.sequence),
        "debtors": func.count().filter(_debt > 0),
        "debt": func.sum(_debt).filter(_debt > 0),
    },
    operations: {"claimed": CLAIMED, "taken": func.count().filter(operations.c.is_taken)},
    payment_events: {"uncollected": func.sum(payment_events.c.uncollected)},
}


def sums_by_slot(connection: Connection, slots: Slots) -> Mapping[int, Sums]:
    """Return the sums of each slot that has rows."""
    by_slot: dict[int, Sums] = {}
    for statement in _statements(scope_of(slots)):
        result = connection.execute(statement, slots._asdict())
        _, *names = result.keys()
        for slot, *found in result:
            of_slot = by_slot.setdefault(slot, Counter())
            of_slot.update({name: int(value or 0) for name, value in zip(names, found, strict=True)})
    return by_slot


@cache
def _statements(scope: Scope) -> Sequence[Select[Any]]:
    return [
        select(table.c.slot, *(sum_.label(name) for name, sum_ in _sums_of(table).items()))
        .where(scope.of(table))
        .group_by(table.c.slot)
        for table in EXAMINED
    ]


def _sums_of(table: Table) -> Mapping[str, ColumnElement[Any]]:
    return {table.name: func.count(), **_MORE.get(table, {})}


def total(sums: Iterable[Sums]) -> Sums:
    """Return the sums of several slots together."""
    together: Sums = Counter()
    for one in sums:
        together.update(one)
    return together
