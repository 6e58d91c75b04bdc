"""Accounts with something due: holds, credit, renewals, events to be taken in. Nothing is changed here."""

from datetime import datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import Engine, func, literal, select, tuple_

from worker.ledger.engine import translated_errors
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import accounts, payment_names, waiting_events


class DueAccount(NamedTuple):
    """Account with something due, and since when."""

    account_id: int
    user_id: str
    due_at: datetime


class AwaitedPayment(NamedTuple):
    """User with a payment that is there while events wait for it: their first reference, and the time."""

    user_id: str
    event_reference: str
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


def awaited_payments(engine: Engine, before: datetime, limit: int) -> list[AwaitedPayment]:
    """Return users whose payment is there while events wait for it that were recorded ``before`` this time.

    A crash has left them, or a payment has got another name. An event that can't count has a reason, and is
    not among them. Raises LedgerUnavailableError.
    """
    name, event = payment_names.c, waiting_events.c
    since = func.min(event.recorded_at)
    statement = (
        select(name.user_id, func.min(event.reference_id), since)
        .join_from(payment_names, waiting_events, event.name == name.name)
        .where(name.user_id.is_not(None), event.reason.is_(None), event.recorded_at < before)
        .group_by(name.user_id)
        .order_by(since, name.user_id)
        .limit(limit)
    )
    with translated_errors(), engine.connect() as connection:
        return [
            AwaitedPayment(*row) for row in connection.execution_options(read_only=True).execute(statement)
        ]
