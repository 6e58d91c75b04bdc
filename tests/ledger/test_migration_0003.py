"""Third migration on dead letters that were there before: none is lost, all are grouped."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, column, insert, select, table

from tests.deadletters.parts import TRACEBACK, deduct
from tests.support.provision import PostgresServer
from worker.deadletters.fingerprints import fingerprint_of
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store import tables as dead_letter_tables
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def row(reference: str, status: str, **fields: Any) -> dict[str, Any]:
    """Row of a dead letter of the second schema."""
    return {
        "letter_id": f"l-{reference}-{status}",
        "status": status,
        "reason": "unprocessable",
        "message": "KeyError: a bug",
        "traceback": TRACEBACK,
        "field": None,
        "queue": "billing.usage",
        "exchange": "billing",
        "routing_key": "usage.deduct",
        "attempts": 2,
        "first_failed_at": NOW,
        "last_failed_at": NOW + timedelta(hours=1),
        "type": "usage.deduct",
        "reference_id": reference,
        "user_id": "ann",
        "worker_version": "1",
        "schema_version": 2,
        "body": json.dumps(deduct(reference)).encode(),
        "properties": {"headers": {"x": 1}},
        "note": "see T-17",
        **fields,
    }


DEAD_LETTERS = [
    row("waits", "parked"),
    row("applied", "replayed"),
    row("nobody-knows", "replayed"),
    row("applied", "replayed", letter_id="of-another-user", user_id="ben"),
    row("away", "discarded"),
    row("b", "parked", reason="invalid_field", field="items.3.tokens", traceback=None, body=b"\xff\0"),
    row("c" * 3_000, "parked", user_id="\U0001f4b6" * 1_000, traceback=None, reason="forged"),
]
OUTCOME = {
    "reference_id": "applied",
    "type": "usage.deduct",
    "user_id": "ann",
    "attempt": 1,
    "content": "{}",
    "status": "rejected",
    "code": "insufficient_balance",
    "recorded_at": "2026-11-22 10:15:00.000000",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A ledger of the second schema with dead letters, brought to the newest one."""
    if request.param == "sqlite":
        engine = ledger_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
        yield from _migrated(engine)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"letters_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    yield from _migrated(ledger_engine(server.address.url(name)))
    server.databases.drop_database(name)


def _migrated(engine: Engine) -> Iterator[Engine]:
    migrate(engine, "0002")
    with engine.begin() as connection:
        connection.execute(insert(table("operations", *map(column, OUTCOME))), OUTCOME)
        connection.execute(insert(dead_letter_tables.dead_letters), DEAD_LETTERS)
    migrate(engine)
    yield engine
    engine.dispose()


def dead_letters(engine: Engine) -> list[StoredDeadLetter]:
    """All dead letters, oldest first."""
    return list(DeadLetters(engine).every_dead_letter(DeadLetterFilter(status=tuple(DeadLetterStatus))))[::-1]


def test_migration_keeps_every_dead_letter_and_resolves_replayed_ones(
    migrated: Engine,
) -> None:
    found = dead_letters(migrated)
    assert [dead_letter.status for dead_letter in found] == [
        "parked",
        "resolved",
        "parked",
        "parked",
        "discarded",
        "parked",
        "parked",
    ]
    assert [dead_letter.body for dead_letter in found] == [
        dead_letter["body"] for dead_letter in DEAD_LETTERS
    ]
    assert {dead_letter.note for dead_letter in found} == {"see T-17"}
    assert [dead_letter.number for dead_letter in found] == list(range(1, 8))
    assert [dead_letter.tokens_at_stake for dead_letter in found] == [5, 5, 5, 5, 5, None, 5]


def test_dead_letters_that_were_there_are_in_the_groups_of_those_that_come(migrated: Engine) -> None:
    for dead_letter in dead_letters(migrated):
        assert dead_letter.fingerprint == fingerprint_of(
            dead_letter.reason,
            dead_letter.type,
            dead_letter.field,
            dead_letter.message,
            dead_letter.traceback,
        )
    service = DeadLetters(migrated)
    assert service.drifts() == []
    assert sorted((group.reason, group.waiting) for group in service.groups().groups) == [
        ("forged", 1),
        ("invalid_field", 1),
        ("unprocessable", 3),
    ]


def test_histories_begin_with_the_failures(migrated: Engine) -> None:
    events = DeadLetters(migrated).details(1).events
    assert [(event.kind, event.at) for event in events] == [
        ("failed", NOW),
        ("failed_again", NOW + timedelta(hours=1)),
    ]


def test_name_that_is_too_long_for_an_index_is_cut(migrated: Engine) -> None:
    dead_letter = dead_letter_tables.dead_letters
    with migrated.connect() as connection:
        names = connection.execute(
            select(dead_letter.c.reference_id, dead_letter.c.user_id).where(dead_letter.c.number == 7)
        ).one()
    assert [len(name) for name in names] == [500, 500]
