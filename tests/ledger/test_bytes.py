"""Bytes on disk of an operation with its entry and all their indexes: they can't grow unseen."""

from collections.abc import Iterator
from itertools import islice
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from schemas import OpenAccount
from tests.benchmarks.loads import deductions, in_turns
from tests.benchmarks.sandbox import user_id
from tests.support.apply_commands import applied
from tests.support.provision import PostgresServer
from worker.bootstrap import utc_now
from worker.catalog import load_catalog
from worker.ledger.engine import ledger_engine

_ACCOUNTS, _DEDUCTIONS, _BATCH = 200, 4_000, 500
#: Bytes of a deduction, of 481 that are measured with so few. With 40,000 there are 469.
_MOST = 490
#: Bytes of the rows, before they are filled up to a multiple of eight.
_MOST_OF_ENTRY, _MOST_OF_OPERATION = 88, 200
_SIZE = "SELECT pg_total_relation_size('operations') + pg_total_relation_size('entries')"
_WIDTH = "SELECT max(pg_column_size(t.*)) FROM {table} AS t WHERE {condition}"


def _width(connection: Connection, table: str, condition: str) -> int:
    return int(connection.execute(text(_WIDTH.format(table=table, condition=condition))).scalar_one())


@pytest.fixture
def fresh(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A database that no test has used: emptied tables keep pages that are counted."""
    name = f"bytes_{uuid4().hex[:8]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


def test_deduction_takes_as_many_bytes_as_are_written_down(fresh: Engine) -> None:
    catalog, now = load_catalog(), utc_now()
    opened = [OpenAccount(reference_id=f"open-{n}", user_id=user_id(n), tier="pro") for n in range(_ACCOUNTS)]
    applied(fresh, catalog, *opened, now=now)
    with fresh.connect() as connection:
        before = int(connection.execute(text(_SIZE)).scalar_one())
    used = deductions(_DEDUCTIONS, in_turns(_ACCOUNTS))
    while batch := list(islice(used, _BATCH)):
        applied(fresh, catalog, *batch, now=utc_now())
    with fresh.connect() as connection:
        after = int(connection.execute(text(_SIZE)).scalar_one())
        assert _width(connection, "entries", "true") <= _MOST_OF_ENTRY
        assert _width(connection, "operations", "type = 1") <= _MOST_OF_OPERATION
    assert (after - before) / _DEDUCTIONS <= _MOST
