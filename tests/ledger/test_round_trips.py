"""Connections of batches: fewer round trips, and the same transactions as the driver's own."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import count
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from schemas import Command
from tests.support.commands import adjust, bonus, deduct, opening, payment, record, reserve, went_back
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.core import decide
from worker.errors import ContentionError, LedgerUnavailableError
from worker.ledger import loading
from worker.ledger.bulk import insert_rows
from worker.ledger.engine import ledger_engine, translated_errors
from worker.ledger.primary import DatabaseGuard
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, operations, senders


@pytest.fixture(params=["alone", "guarded"])
def batches(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Engine]:
    """The worker's own engine, with and without the guard of its loops."""
    guard = DatabaseGuard(5.0) if request.param == "guarded" else None
    engine = ledger_engine(postgres_url, only_by_key=True, guard=guard)
    yield engine
    engine.dispose()


def apply(engine: Engine, *commands: Command) -> None:
    with Ledger(engine).begin(commands, NOW) as transaction:
        transaction.write(decide(commands, transaction.known, NOW, SMALL_CATALOG))


def stored(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT reference_id FROM operations")).scalars())


# -- a batch ----------------------------------------------------------------------------------------------


def test_lone_message_waits_twice_for_the_database(batches: Engine) -> None:
    apply(batches, opening())
    apply(batches, deduct(1, "first"))
    sent: list[str] = []
    event.listen(batches, "before_cursor_execute", lambda _c, _u, sql, *_: sent.append(sql))
    apply(batches, deduct(1, "second"))
    assert [" ".join(part.split("_")[0] for part in sql.split("; ")) for sql in sent] == [
        "EXECUTE lock EXECUTE read",
        "EXECUTE write COMMIT",
    ]
    assert stored(batches) == {"o", "first", "second"}


def test_block_that_fails_behind_the_write_leaves_nothing(batches: Engine) -> None:
    apply(batches, opening())
    command = deduct(1, "d")

    def die() -> None:
        with Ledger(batches).begin([command], NOW) as transaction:
            transaction.write(decide([command], transaction.known, NOW, SMALL_CATALOG))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    assert stored(batches) == {"o"}
    apply(batches, command)
    assert stored(batches) == {"o", "d"}


def test_write_that_misses_a_row_commits_nothing(batches: Engine) -> None:
    apply(batches, opening())
    command = deduct(1, "d")

    def lose() -> None:
        with Ledger(batches).begin([command], NOW) as transaction:
            transaction.known.accounts["u"].sequence += 1  # as if another worker had posted an entry
            transaction.write(decide([command], transaction.known, NOW, SMALL_CATALOG))

    with pytest.raises(ContentionError, match="changed although"):
        lose()
    assert stored(batches) == {"o"}
    apply(batches, command)
    assert stored(batches) == {"o", "d"}


def test_small_batch_reads_together_what_a_large_one_reads_in_turn(batches: Engine) -> None:
    for command in (
        opening(tier="pro"),
        bonus(30, "later", expires_at=None),
        payment(reference_id="p"),
        deduct(30, "d", feature="chat"),
        deduct(9_999, "too-much"),
        reserve(25, "hold"),
        record("page", 7, reference_id="n"),
        opening("o2", "v"),
        adjust(-150, reference_id="a2", user_id="v", allow_negative=True),
    ):
        apply(batches, command)
    asking: list[Command] = [
        deduct(1, "d"),
        deduct(2, "new"),
        payment(reference_id="p"),
        went_back(1, reference_id="w"),
    ]
    asking += [deduct(1, "too-much"), record("page", 1, reference_id="m"), deduct(1, "x", "v")]
    together, in_turn = (_known(batches, asking, few) for few in (16, 0))
    assert together == in_turn
    assert len(together["accounts"]) == 2
    assert together["outcomes"].keys() == {"d", "p", "too-much"}


def _known(engine: Engine, commands: list[Command], few: int) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.ledger.first_reads._FEW", few)
        with engine.begin() as connection:
            known = loading.load(connection, commands, NOW, lambda number: iter(range(number)))
    return {field.name: getattr(known, field.name) for field in fields(known)}


@pytest.mark.parametrize("name", ["", "a, b", 'q"\\uote\\', "{}", "(NULL)", "null", "ö😀", "'%s'", " x "])
def test_lone_row_is_written_as_it_is_read(postgres_engine: Engine, name: str) -> None:
    row = {"sender_id": 1, "broker_user": name, "application": name, "first_seen_at": NOW}
    with postgres_engine.begin() as connection:
        insert_rows(connection, senders, [row])
        assert dict(connection.execute(senders.select()).one()._mapping) == row


def test_lone_row_has_nulls_and_json(batches: Engine) -> None:
    metadata = {"quote": '"', "backslash": "\\", "braces": "{},()", "number": 1, "yes": True}
    apply(batches, opening())
    apply(batches, deduct(1, "d", metadata=metadata, description=None))
    with batches.connect() as connection:
        row = connection.execute(operations.select().where(operations.c.reference_id == "d")).one()
    assert (row.metadata, row.description, row.recorded_at) == (metadata, None, NOW)


# -- transactions -----------------------------------------------------------------------------------------

_numbers = count(1)


def add(engine: Engine, *, and_then: str = "SELECT 1") -> int:
    """Add a sender and execute another statement in one transaction; return the sender's number."""
    number = next(_numbers)
    with translated_errors(), engine.begin() as connection:
        row = {"sender_id": number, "broker_user": "u", "application": str(number), "first_seen_at": NOW}
        connection.execute(senders.insert(), row)
        connection.execute(text(and_then))
    return number


def senders_in(engine: Engine) -> set[int]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT sender_id FROM senders")).scalars())


def test_transaction_is_one_from_its_first_statement_on(batches: Engine) -> None:
    with batches.connect() as connection:
        first, second = (
            connection.scalar(text("SELECT pg_current_xact_id()::text")),
            connection.scalar(text("SELECT pg_current_xact_id()::text")),
        )
        connection.rollback()
        assert first == second != connection.scalar(text("SELECT pg_current_xact_id()::text"))


def test_failed_statement_rolls_back_its_transaction(batches: Engine) -> None:
    kept = add(batches)
    with pytest.raises(DBAPIError, match="division by zero"):
        add(batches, and_then="SELECT 1 / 0")
    assert senders_in(batches) == {kept}
    also_kept = add(batches)
    assert senders_in(batches) == {kept, also_kept}


def test_connection_that_was_lost_before_the_commit_is_no_success(
    batches: Engine, postgres_engine: Engine
) -> None:
    def lose() -> None:
        with translated_errors(), batches.begin() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            connection.execute(text("INSERT INTO write_probes (id, payload) VALUES (99, '')"))
            with postgres_engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    with pytest.raises(LedgerUnavailableError):
        lose()
    with batches.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM write_probes WHERE id = 99")) == 0


def test_transaction_that_has_failed_is_not_committed_in_silence(batches: Engine) -> None:
    with batches.connect() as connection:
        own: Any = connection.connection.dbapi_connection
        with own.cursor() as cursor, pytest.raises(psycopg2.DataError):
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(psycopg2.InternalError, match="had failed"):
            own.commit()


def test_connection_gives_single_statements_and_snapshots_and_comes_back(batches: Engine) -> None:
    with batches.connect() as connection:
        single = connection.execution_options(isolation_level="AUTOCOMMIT")
        single.execute(text("VACUUM accounts"))
    with batches.connect() as connection:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        snapshot = connection.execution_options(**options)
        assert snapshot.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        streamed = snapshot.execute(accounts.select(), execution_options={"yield_per": 10})
        assert streamed.all() == []
    assert add(batches) in senders_in(batches)
