"""Migration 0009: the guard of the holds lets a later end and one late capture pass, and nothing else."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from schemas import Command
from tests.support.apply_commands import applied
from tests.support.commands import extend, opening, release, reserve, settle, settling
from tests.support.strategies import SMALL_CATALOG
from worker.ledger.audit import audit
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.queries import Reader
from worker.ledger.tables import holds, identifiers

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER, EARLIER = "expires_at = '2030-01-01 00:00:00.000000'", "expires_at = '2020-01-01 00:00:00.000000'"


@pytest.fixture
def four_holds(engine: Engine) -> Engine:
    """A ledger with a hold in each state: open, settled, released and expired."""
    names = ("open", "settled", "released", "expired")
    lives = (86_400, 3_600, 3_600, 3_600)
    reservations = [reserve(10, name, life) for name, life in zip(names, lives, strict=True)]
    ends: list[Command] = [settle(5, "settled"), release("released", reference_id="l")]
    applied(engine, SMALL_CATALOG, opening(), *reservations, *ends, now=NOW)
    applied(engine, SMALL_CATALOG, settling(reference_id="t"), now=NOW + HOUR)
    return engine


@pytest.mark.parametrize(
    ("hold", "change"),
    [
        ("open", LATER),
        ("expired", "state = 'settled'"),
        ("expired", "state = 'settled', captured = 7"),
    ],
)
def test_guard_lets_pass(four_holds: Engine, hold: str, change: str) -> None:
    with four_holds.begin() as connection:
        statement = f"UPDATE holds SET {change} WHERE reference_id = '{hold}'"  # noqa: S608 - words of this file
        assert connection.execute(text(statement)).rowcount == 1


@pytest.mark.parametrize(
    ("hold", "changes"),
    [
        ("open", [EARLIER, f"{LATER}, amount = 9", "captured = 0", "state = 'open'"]),
        ("settled", [LATER, EARLIER, "captured = 6", "state = 'expired', captured = 0"]),
        ("released", [LATER, "state = 'settled'", "state = 'expired'"]),
        (
            "expired",
            [
                LATER,
                "state = 'released'",
                f"state = 'settled', {LATER}",
                "state = 'settled', closed_by = operation_id",
                f"state = 'settled', {LATER.replace('expires', 'closed')}",
                "state = 'settled', amount = 9",
                "state = 'open', closed_at = NULL, closed_by = NULL",
            ],
        ),
    ],
)
def test_guard_refuses(four_holds: Engine, hold: str, changes: Sequence[str]) -> None:
    for change in changes:
        statement = f"UPDATE holds SET {change} WHERE reference_id = '{hold}'"  # noqa: S608 - words of this file
        with pytest.raises(DBAPIError, match="append-only"), four_holds.begin() as connection:
            connection.execute(text(statement))


def test_new_names_have_their_numbers(engine: Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(select(identifiers)).all()
    stored = {(row.kind, row.name): row.number for row in rows}
    assert stored == {
        (kind, name): number for kind, numbers in IDENTIFIERS.items() for name, number in numbers.items()
    }


def test_hold_is_extended_settled_late_and_explained(engine: Engine) -> None:
    applied(engine, SMALL_CATALOG, opening(), reserve(60, "hold", 3_600), now=NOW)
    applied(engine, SMALL_CATALOG, extend(7_200), now=NOW + HOUR / 2)
    applied(engine, SMALL_CATALOG, extend(60, reference_id="x2"), now=NOW + HOUR / 2)  # no later
    until = NOW + HOUR / 2 + 2 * HOUR
    reader = Reader(engine)
    (hold,) = reader.holds("u", NOW + HOUR, SMALL_CATALOG, ended=False, limit=10).holds
    assert (hold.state, hold.expires_at) == ("open", until)
    applied(engine, SMALL_CATALOG, settling(reference_id="t"), now=until + HOUR)
    assert reader.balance_at("u", NOW + HOUR, SMALL_CATALOG).held == 60
    assert reader.balance_at("u", until, SMALL_CATALOG).held == 0
    applied(engine, SMALL_CATALOG, settle(50, reference_id="s"), now=until + 2 * HOUR)
    for reference in ("hold", "x", "x2", "s"):
        shown = reader.explain(reference, until + 2 * HOUR, SMALL_CATALOG).hold
        assert shown is not None
        assert (shown.state, shown.captured, shown.closed_by) == ("settled", 50, "t")
        assert (shown.expires_at, shown.closed_at) == (until, until)
    assert reader.balance_at("u", until + HOUR, SMALL_CATALOG).balance == 100
    with engine.connect() as connection:
        assert connection.execute(select(holds.c.captured)).scalar_one() == 50
    assert audit(engine).is_clean
