"""Reports over the whole ledger: they add up to it, for ledgers of every kind."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from tests.support.apply_commands import applied
from tests.support.in_world import in_world
from tests.support.report_identities import (
    ZONE,
    ReportReader,
    assert_money_adds_up,
    assert_tokens_add_up,
    cuts_of,
)
from tests.support.strategies import CATALOGS, STRICT_CATALOG, TAKING_CATALOG
from tests.support.true_ledger import CATALOG, OPENED
from tests.support.worlds import day_of, named_world
from worker.catalog import Catalog
from worker.errors import QueryError
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import snapshot
from worker.ledger.queries.reports import report, report_request, table

LATER = datetime(2040, 1, 1, tzinfo=UTC)


def assert_ledger_adds_up(engine: Engine, *catalogs: Catalog) -> None:
    with snapshot(engine) as connection:
        cuts = cuts_of(connection)
    assert_tokens_add_up(ReportReader(engine, catalogs[0].payments, LATER), cuts)
    for catalog in catalogs:
        assert_money_adds_up(ReportReader(engine, catalog.payments, LATER), cuts)


def test_reports_add_up_to_a_ledger_with_everything_in_it(true_ledger: Engine) -> None:
    assert_ledger_adds_up(true_ledger, CATALOG)


def assert_worlds_add_up(engine: Engine, seeds: range) -> None:
    """Apply the worlds to one database, each under one of the catalogs, and compare its reports."""
    catalogs = list(CATALOGS.values())
    for seed in seeds:
        catalog = catalogs[seed % len(catalogs)]
        for now, batch in day_of(seed):
            applied(engine, catalog, *(in_world(seed, command) for command in batch), now=now)
    with named_world(seeds.start):
        assert_ledger_adds_up(engine, TAKING_CATALOG, STRICT_CATALOG)


def test_reports_add_up_to_worlds_by_chance(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        assert_worlds_add_up(engine, range(2))
    finally:
        engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_reports_add_up_to_hundreds_of_worlds(engine: Engine, first: int) -> None:
    assert_worlds_add_up(engine, range(first, first + 20))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_report_that_waits_too_long_is_given_up_and_names_the_command(engine: Engine) -> None:
    request = report_request("usage", LATER - timedelta(days=1), LATER, ZONE, (), LATER)
    with engine.begin() as other:
        other.execute(text("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(QueryError, match=r"takes longer than 0 s here: .* `billing-worker report usage`"):
            report(engine, request, CATALOG.payments, timeout_s=0.05)
    assert report(engine, request, CATALOG.payments).rows == ()


def test_report_with_too_many_rows_is_refused_with_a_way_out(
    true_ledger: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ROWS_MAX", 3)
    reader = ReportReader(true_ledger, CATALOG.payments, LATER)
    with pytest.raises(QueryError, match="more than 3 rows: ask for a shorter range, for months instead"):
        reader.read("usage", OPENED, OPENED + timedelta(days=60), "day", "type")
