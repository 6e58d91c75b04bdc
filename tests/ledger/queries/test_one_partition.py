"""Commands and reads of a distributed ledger on its stand-in: each statement touches one partition.

A statement that joins a table of the ledger to one beside it could not run where these are on two machines.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command, ImportAccount
from tests.ledger.queries.test_slot_by_slot import NOW, READS, REFERENCES, USERS
from tests.support.commands import deduct, importing, payment
from tests.support.forms import transacted
from tests.support.touched_partitions import touched
from tests.support.true_ledger import CATALOG, HISTORY, OPENED
from worker.deadletters.replay.ledger_check import Expected, shown
from worker.deadletters.store.lookup import numbers_by_reference
from worker.ledger.due import awaited_payments
from worker.ledger.form import LedgerForm
from worker.ledger.known_ids import known_ids
from worker.ledger.queries import snapshot
from worker.ledger.queries.imports import foreseen, posted_imports
from worker.ledger.queries.incidents import (
    IncidentFilter,
    IncidentKind,
    counts,
    incidents,
    overdue_events,
    waiting_counts,
)
from worker.ledger.queries.pace import pace
from worker.ledger.queries.payment_views import named_payment
from worker.ledger.recoveries import Advance, Recoveries
from worker.ledger.slots import parts_of, slot_by_slot
from worker.ledger.store import Ledger
from worker.payment_retries import first_senders, forecast, next_attempts

Read = Callable[[Engine], Any]

#: One that isn't known yet, with payments, and one of a user with an account.
IMPORTS: list[ImportAccount] = [importing("new-one"), importing("ada", referenceId="ada-import")]
#: Users of several slots, as in a dry run of dead letters.
COMMANDS: list[Command] = [
    *(deduct(1, f"new-{user}", user) for user in USERS),
    payment(reference_id="p", user_id="ada"),
]


def in_snapshot(read: Callable[..., Any], *arguments: Any) -> Read:
    def inside(engine: Engine) -> Any:
        with snapshot(engine) as connection:
            found = read(connection, *arguments)
            return list(found) if hasattr(found, "__next__") else found

    return inside


def of_incidents(engine: Engine) -> Any:
    filters = (
        IncidentFilter(),
        IncidentFilter(user_id="cyd"),
        IncidentFilter(gateway="stripe"),
        *(IncidentFilter(kinds=frozenset({kind}), since=NOW - timedelta(days=99)) for kind in IncidentKind),
    )
    with snapshot(engine) as connection:
        return [incidents(connection, filter_, NOW) for filter_ in filters]


def of_pace(engine: Engine) -> Any:
    with snapshot(engine) as connection:
        return pace(connection, NOW, timedelta(days=1), 30, shares=parts_of(connection))


def of_retries(engine: Engine) -> Any:
    with snapshot(engine) as connection:
        page = incidents(connection, IncidentFilter(kinds=frozenset({IncidentKind.REJECTED})), NOW)
    references = [one.reference_id for one in page.incidents if one.type == "payment.succeeded"]
    commands = next_attempts(engine, references)
    return commands, first_senders(engine, commands), forecast(engine, commands, CATALOG, NOW)


def of_recoveries(engine: Engine) -> Any:
    recoveries = Recoveries(engine)
    number = recoveries.begin("a test", NOW, 0, 9, NOW).number
    recoveries.advance(number, Advance(10, published=10), NOW)
    return recoveries.get(number)


MORE: dict[str, Read] = {
    "incidents": of_incidents,
    "counts of incidents": in_snapshot(counts, NOW),
    "counts of what waits": in_snapshot(waiting_counts, NOW),
    "overdue events": in_snapshot(overdue_events, NOW, 10),
    "payment by its name": in_snapshot(named_payment, "cyd-pay-2"),
    "payment to come": in_snapshot(named_payment, "cyd-nowhere"),
    "imports to come": in_snapshot(foreseen, IMPORTS, NOW, CATALOG),
    "imports that were posted": in_snapshot(posted_imports, IMPORTS),
    "pace": of_pace,
    "retries": of_retries,
    "recoveries": of_recoveries,
    "commands of a journal": in_snapshot(shown, [Expected.of(command) for command in COMMANDS]),
    "dead letters of references": in_snapshot(numbers_by_reference, set(REFERENCES)),
    "dry run": lambda engine: forecast(engine, COMMANDS, CATALOG, NOW),
    "known ids": lambda engine: known_ids(engine, [*USERS, *REFERENCES, "no-one"]),
    "awaited payments": lambda engine: awaited_payments(engine, NOW, 10),
}
#: Reads of which one statement looks for users of several slots; no lock is taken, and no table joined.
OF_SEVERAL = {"known ids": "accounts"}


def test_command_of_a_true_ledger_touches_one_partition(stand_in: Engine) -> None:
    ledger = Ledger(stand_in, LedgerForm.DISTRIBUTED)
    with touched(stand_in, once=True) as planned:
        for day, commands, catalog in HISTORY:
            transacted(ledger, commands, OPENED + day, catalog)
    assert planned.statements > 100
    assert (planned.of_several, planned.mixed) == ({}, [])


@pytest.mark.parametrize("name", [*READS, *MORE])
def test_statement_of_a_read_touches_one_partition(name: str, true_stand_in: Engine) -> None:
    read = {**READS, **MORE}[name]
    with touched(true_stand_in, once=True) as planned:
        read(slot_by_slot(true_stand_in))
    assert planned.statements > 0
    assert planned.mixed == []
    of_several = {table for tables in planned.of_several.values() for table in tables}
    assert of_several == ({OF_SEVERAL[name]} if name in OF_SEVERAL else set()), planned.of_several
