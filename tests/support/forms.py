"""Ledgers of each form, ready for tests, and batches that go through them as the worker sends them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import Engine

from schemas import Command, SettleAccount
from worker.catalog import Catalog
from worker.core import Answer, decide
from worker.ledger.due import awaited_payments
from worker.ledger.store import Ledger


def transacted(ledger: Ledger, commands: Sequence[Command], now: datetime, catalog: Catalog) -> list[Answer]:
    """Apply ``commands`` as the pipeline does, share by share; return the answers in their order."""
    answers: dict[int, Answer] = {}
    for share in ledger.shares(commands):
        own = [command for _, command in share]
        with ledger.begin(own, now, auto_open=catalog.auto_open) as transaction:
            plan = decide(own, transaction.known, now, catalog)
            transaction.write(plan)
        answers.update({place: answer for (place, _), answer in zip(share, plan.answers, strict=True)})
    return [answers[place] for place in range(len(commands))]


#: A time after everything that happens in a world.
AFTER_ALL = datetime(2030, 1, 1, tzinfo=UTC)


def settle_awaited(ledger: Ledger, engine: Engine, catalog: Catalog, prefix: str = "") -> int:
    """Settle the accounts of payments that events wait for, as the scheduler does; count the settlements."""
    for number in range(100):
        found = awaited_payments(engine, AFTER_ALL, 1_000)
        users = [awaited.user_id for awaited in found if awaited.user_id.startswith(prefix)]
        if not users:
            return number
        for user in users:
            look = SettleAccount(reference_id=f"look-{number}-{user}-{uuid4().hex}", user_id=user)
            transacted(ledger, [look], AFTER_ALL, catalog)
    raise AssertionError("events wait although their payments are there")
