"""Catalogs that commands were judged with: one key each, for every worker, and kept whole."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from threading import Barrier

import pytest
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import DBAPIError

from schemas import DeductUsage, OpenAccount, PaymentSucceeded
from tests.support.apply_commands import applied
from worker.catalog import Catalog
from worker.core import Decided
from worker.errors import ContentionError
from worker.ledger import catalogs
from worker.ledger.audit import audit
from worker.ledger.catalogs import catalog_id
from worker.ledger.engine import ledger_engine
from worker.ledger.tables import catalogs as table
from worker.ledger.tables import operations, superseded_outcomes

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def key_of(engine: Engine, catalog: Catalog) -> int | None:
    with engine.begin() as connection:
        return catalog_id(connection, catalog, NOW)


@pytest.fixture
def other(catalog: Catalog) -> Catalog:
    """A catalog that opens accounts by itself."""
    return catalog.model_copy(update={"auto_open": "free"})


def test_catalog_keeps_its_key_and_its_content(engine: Engine, catalog: Catalog, other: Catalog) -> None:
    first = key_of(engine, catalog)
    assert first is not None
    assert [key_of(engine, catalog.model_copy()), key_of(engine, catalog)] == [first, first]
    assert key_of(engine, other) not in {None, first}
    with engine.connect() as connection:
        kept = {row.catalog_id: row for row in connection.execute(select(table))}
    assert len(kept) == 2
    assert Catalog.model_validate_json(kept[first].content) == catalog
    assert kept[first].digest == sha256(kept[first].content.encode()).hexdigest()


def test_known_catalog_is_not_read_again(
    engine: Engine, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [key_of(engine, catalog) for _ in range(2)]
    monkeypatch.setattr(catalogs, "_stored", None)
    assert [key_of(engine, catalog)] == known[:1]


def test_catalog_of_a_transaction_that_failed_is_added_by_the_next(engine: Engine, catalog: Catalog) -> None:
    with engine.connect() as connection:
        catalog_id(connection, catalog, NOW)
        connection.rollback()
    key = key_of(engine, catalog)
    with engine.connect() as connection:
        assert list(connection.execute(select(table.c.catalog_id)).scalars()) == [key]


def test_too_many_catalogs_are_unknown_and_logged_once(
    engine: Engine,
    catalog: Catalog,
    other: Catalog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(catalogs, "CATALOGS_MAX", 1)
    key = key_of(engine, catalog)
    with caplog.at_level(logging.WARNING):
        assert [key_of(engine, other), key_of(engine, other), key_of(engine, catalog)] == [None, None, key]
    assert len(caplog.records) == 1


def test_key_that_is_taken_is_drawn_again(
    engine: Engine, catalog: Catalog, other: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([6, 6, 7])
    monkeypatch.setattr(catalogs, "randbelow", lambda *_: next(drawn))
    assert key_of(engine, catalog) == 7
    with pytest.raises(ContentionError):
        key_of(engine, other)
    assert key_of(engine, other) == 8


def test_workers_that_bring_a_catalog_at_once_agree_on_its_key(postgres_url: str, catalog: Catalog) -> None:
    together = Barrier(4)

    def worker(_number: int) -> int | None:
        engine = ledger_engine(postgres_url)
        together.wait()
        key = key_of(engine, catalog)
        engine.dispose()
        return key

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(worker, range(4)))) == 1


@pytest.mark.parametrize("change", [update(table).values(content="{}"), delete(table)])
def test_catalogs_are_append_only(engine: Engine, catalog: Catalog, change: object) -> None:
    key_of(engine, catalog)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(change)  # type: ignore[call-overload]


def test_outcome_names_the_catalog_it_was_judged_with(engine: Engine, catalog: Catalog) -> None:
    """A copy changes nothing; the next attempt has its own, and the superseded one keeps the first."""
    mended = catalog.model_copy(
        update={"packages": (*catalog.packages, catalog.packages[0].model_copy(update={"id": "gone"}))}
    )
    money = {"amount_minor": catalog.packages[0].price_minor, "currency": catalog.packages[0].currency}
    paid = PaymentSucceeded.model_validate(
        {"reference_id": "pay", "user_id": "ada", "package_id": "gone", **money}
    )
    applied(engine, catalog, OpenAccount(reference_id="open", user_id="ada", tier="free"), paid, now=NOW)
    (copy,) = applied(engine, mended, paid, now=NOW)
    assert isinstance(copy, Decided)
    assert copy.duplicate
    old, new = key_of(engine, catalog), key_of(engine, mended)
    assert copy.outcome.catalog_id == old
    (again,) = applied(engine, mended, paid.model_copy(update={"attempt": 2}), now=NOW)
    assert isinstance(again, Decided)
    assert again.outcome.is_applied
    with engine.connect() as connection:
        of_operations = select(operations.c.reference_id, operations.c.catalog_id)
        found = {row.reference_id: row.catalog_id for row in connection.execute(of_operations)}
        assert found == {"open": old, "pay": new}
        assert connection.execute(select(superseded_outcomes.c.catalog_id)).scalar_one() == old
    assert audit(engine).is_clean


def test_catalog_of_an_operation_stays(engine: Engine, catalog: Catalog, other: Catalog) -> None:
    opening = OpenAccount(reference_id="open", user_id="ada", tier="free")
    idle = DeductUsage(reference_id="idle", user_id="ada", tokens=0)
    applied(engine, catalog, opening, idle, now=NOW)
    change = update(operations).where(operations.c.reference_id == "idle")
    for values in ({"catalog_id": key_of(engine, other)}, {"is_taken": True, "catalog_id": None}):
        with engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
            connection.execute(change.values(**values))
