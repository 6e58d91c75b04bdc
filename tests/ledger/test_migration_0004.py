"""The fourth migration: superseded outcomes stay, and references may change hands afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.ledger.test_store import replies_to
from tests.support.commands import deduct, payment
from tests.support.provision import PostgresServer
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision
from worker.ledger.store import Ledger

HISTORY = Path(__file__).with_name("ledger_0003.sql")


@pytest.fixture(params=["sqlite", "postgresql"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A ledger of the third schema: an account, and a reference that was rejected three times."""
    if request.param == "sqlite":
        engine = ledger_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
        _fill(engine)
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"squatted_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    engine = ledger_engine(server.address.url(name))
    _fill(engine)
    yield engine
    engine.dispose()
    server.databases.drop_database(name)


def _fill(engine: Engine) -> None:
    migrate(engine, "0003")
    with engine.begin() as connection:
        for statement in HISTORY.read_text(encoding="utf-8").split(";")[:-1]:
            connection.exec_driver_sql(statement)


def rows_of(engine: Engine) -> list[dict[str, Any]]:
    """The superseded outcomes, oldest first."""
    statement = text("SELECT * FROM superseded_outcomes ORDER BY attempt")
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def test_no_superseded_outcome_is_lost_or_changed(before: Engine) -> None:
    rows = rows_of(before)
    assert [row["attempt"] for row in rows] == [1, 2]
    migrate(before, "0004")
    assert current_revision(before) == "0004"
    assert rows_of(before) == rows


def test_guards_are_there_afterwards(before: Engine) -> None:
    migrate(before, "0004")
    for statement in (
        "DELETE FROM superseded_outcomes",
        "UPDATE superseded_outcomes SET code = 'x'",
        "DELETE FROM operations WHERE reference_id = 'r'",
        "UPDATE operations SET code = 'x' WHERE reference_id = 'r'",
        "UPDATE operations SET type = 'usage.record', attempt = 4 WHERE reference_id = 'r'",
        "UPDATE operations SET type = 'payment.succeeded' WHERE reference_id = 'o'",
    ):
        with pytest.raises(DBAPIError, match="append-only"), before.begin() as connection:
            connection.execute(text(statement))
    orphan = "INSERT INTO superseded_outcomes (operation_id, reference_id, type, user_id, attempt, content,"
    orphan += " status, code, recorded_at) VALUES (99, 'r', 'usage.deduct', 'u', 9, '{}', 'rejected', 'x',"
    orphan += " '2026-11-22 10:15:00.000000')"
    with pytest.raises(DBAPIError, match=r"(?i)foreign key"), before.begin() as connection:
        connection.exec_driver_sql(orphan)


def test_reference_that_was_squatted_before_is_taken_afterwards(before: Engine) -> None:
    """The squatter still gets each of its outcomes, from before the migration too."""
    migrate(before)
    ledger = Ledger(before)
    (paid,) = replies_to(ledger, [payment()])
    assert (paid["code"], paid["duplicate"]) == ("tokens_purchased", False)
    again = replies_to(ledger, [deduct(5_000, attempt=attempt) for attempt in (1, 2, 3)])
    assert [(reply["code"], reply["attempt"], reply["duplicate"]) for reply in again] == [
        ("insufficient_balance", attempt, True) for attempt in (1, 2, 3)
    ]
    assert [row["attempt"] for row in rows_of(before)] == [1, 2], "the third is the operation that was taken"
    assert audit(before).is_clean
