"""Migration 0018: names of payments stay, and are the same as no others."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

_INSERT = (
    "INSERT INTO payment_names (named_at, version, name, payment_reference, user_id)"
    " VALUES ('2026-11-22 00:00:00.000000', 1, :name, :payment, :user)"
)


@pytest.fixture
def moved(tmp_path: Path) -> Engine:
    """A ledger with a name that has its payment and one that is waited for, moved from 0.2.0."""
    engine = ledger_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    migrate(engine, "0012")
    with engine.begin() as connection:
        connection.execute(text(_INSERT), {"name": "bound", "payment": "bound", "user": "ada"})
        connection.execute(text(_INSERT), {"name": "awaited", "payment": None, "user": None})
    migrate(engine)
    return engine


def test_names_stay_and_are_the_same_as_no_others(moved: Engine) -> None:
    with moved.connect() as connection:
        found = connection.execute(text("SELECT name, user_id, same_as FROM payment_names ORDER BY name"))
        assert [tuple(row) for row in found] == [("awaited", None, None), ("bound", "ada", None)]
        numbers = connection.execute(text("SELECT name FROM identifiers WHERE number IN (27, 43, 44)"))
        assert {"payment.named", "payment_named", "cancellation_late"} <= set(numbers.scalars())
