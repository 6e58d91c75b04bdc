"""Accounts with something due: holds, credit, renewals. Nothing is changed here."""

from datetime import datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import Engine, literal, select, tuple_

from worker.ledger.engine import translated_errors
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import accounts


class DueAccount(NamedTuple):
    """Account with something due, and since when."""

    account_id: int
    user_id: str
    due_at: datetime


def due_accounts(
    engine: Engine, now: datetime, limit: int, *, after: DueAccount | None = None
) -> list[DueAccount]:
    """Return at most ``limit`` accounts with something due at ``now``, the longest due first.

    With ``after`` it continues behind that account. The id only makes the order total. Raises
    LedgerUnavailableError.
    """
    place = (accounts.c.due_at, accounts.c.account_id)
    statement = (
        select(accounts.c.account_id, accounts.c.user_id, accounts.c.due_at)
        .where(accounts.c.due_at <= now)
        .order_by(*place)
        .limit(limit)
    )
    if after is not None:
        behind = (literal(after.due_at, accounts.c.due_at.type), literal(after.account_id))
        statement = statement.where(tuple_(*place) > tuple_(*behind))
    with translated_errors(), engine.connect() as connection:
        reading = connection.execution_options(read_only=True)
        parts = [
            reading.execute(statement.where(in_slots(accounts.c.slot, slots))).all()
            for slots in parts_of(reading)
        ]
    in_order = merge(*parts, key=attrgetter("due_at", "account_id"))
    return [DueAccount(*row) for row in islice(in_order, limit)]
