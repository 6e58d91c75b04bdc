"""The migration to lots: a ledger of revision 0001 keeps every number it had, and goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, Inspector, Table, event, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from schemas import (
    COMMAND_TYPES,
    BonusCredit,
    Command,
    DeductUsage,
    PaymentRefunded,
    RefundCredit,
    SettleAccount,
    slot_of,
)
from tests.support.apply_commands import applied
from tests.support.provision import PostgresServer
from worker.catalog import load_catalog
from worker.core import reply_for
from worker.core.periods import period_at
from worker.deadletters.store.tables import dead_letters
from worker.ledger import tables
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision

HISTORY = Path(__file__).with_name("ledger_0001.sql")
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
DEAD_LETTER = {
    "letter_id": "letter-1",
    "status": "parked",
    "reason": "not_json",
    "message": "The body is not JSON",
    "queue": "billing.commands",
    "exchange": "billing",
    "routing_key": "usage.deduct",
    "attempts": 1,
    "first_failed_at": NOW,
    "last_failed_at": NOW,
    "worker_version": "0.1.0",
    "schema_version": 1,
    "body": b"\x00not json",
    "properties": {"delivery_mode": 2},
}

Rows = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Migrated:
    """The ledger at the newest revision, and what was in it before: rows and triggers by name.

    ``kept`` are the rows before the seventh migration, which makes all tables of the ledger anew.
    """

    engine: Engine
    rows: Rows
    kept: Rows
    triggers: Mapping[str, str]
    months: frozenset[datetime]  #: the first instant of the next month, before the migration and after


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migrated]:
    """The history after the migration; no test leaves anything in it."""
    with at_0001(request.param, request, tmp_path_factory) as engine:
        rows, triggers, began_at = rows_of(engine), triggers_of(engine), datetime.now(UTC)
        migrate(engine, "0006")
        months = frozenset(map(month_after, (began_at, datetime.now(UTC))))
        kept = rows_of(engine)
        migrate(engine)
        yield Migrated(engine, rows, kept, triggers, months)


@contextmanager
def at_0001(
    dialect: str, request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A database with the history and a dead letter."""
    if dialect == "sqlite":
        with filled(ledger_engine(f"sqlite:///{folders.mktemp('history') / 'ledger.sqlite3'}")) as engine:
            yield engine
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"history_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    try:
        with filled(ledger_engine(server.address.url(name), statement_timeout_s=30)) as engine:
            yield engine
    finally:
        server.databases.drop_database(name)


@contextmanager
def filled(engine: Engine) -> Iterator[Engine]:
    try:
        migrate(engine, "0001")
        with engine.begin() as connection:
            for statement in HISTORY.read_text(encoding="utf-8").split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
            connection.execute(insert(dead_letters), DEAD_LETTER)
        yield engine
    finally:
        engine.dispose()


def rows_of(engine: Engine) -> Rows:
    """Every row of every table, in the order of the primary keys."""
    with engine.connect() as connection:
        inspector = inspect(connection)
        return {
            table: [
                dict(row._mapping)
                for row in connection.execute(
                    text(f"SELECT * FROM {table} ORDER BY {', '.join(key_of(inspector, table))}")  # noqa: S608 - names of the tables
                )
            ]
            for table in sorted(inspector.get_table_names())
            if table in tables.metadata.tables
        }


def key_of(inspector: Inspector, table: str) -> list[str]:
    return inspector.get_pk_constraint(table)["constrained_columns"]


def triggers_of(engine: Engine) -> Mapping[str, str]:
    """Definition of each trigger, by its name."""
    statement = (
        "SELECT tgname AS name, concat(pg_get_triggerdef(oid), tgenabled) AS made"
        " FROM pg_trigger WHERE NOT tgisinternal"
        if engine.dialect.name == "postgresql"
        else "SELECT name, sql AS made FROM sqlite_master WHERE type = 'trigger'"
    )
    with engine.connect() as connection:
        return {row.name: row.made for row in connection.execute(text(statement))}


def month_after(moment: datetime) -> datetime:
    """The first instant of the month after ``moment``."""
    return (datetime(moment.year, moment.month, 28, tzinfo=UTC) + timedelta(days=4)).replace(day=1)


@contextmanager
def undone(engine: Engine) -> Iterator[Connection]:
    """A transaction that leaves nothing."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


# -- what was there ---------------------------------------------------------------------------------------


def test_migration_keeps_every_row_and_every_number(migrated: Migrated) -> None:
    for table, rows in migrated.rows.items():
        assert rows, table
        kept = [{name: row[name] for name in rows[0]} for row in migrated.kept[table]]
        assert kept == rows, table
    assert len(migrated.rows) == 8


def test_periods_begin_with_the_months_and_the_present_one_is_granted(migrated: Migrated) -> None:
    with migrated.engine.connect() as connection:
        rows = connection.execute(select(tables.accounts).order_by(tables.accounts.c.account_id)).all()
        counted = connection.execute(
            select(
                tables.quota_entries.c.account_id,
                tables.quota_entries.c.recorded_at,
                tables.quota_entries.c.period_start,
            )
        ).all()
    assert [(row.user_id, row.anchor, row.period_granted, row.lot_count) for row in rows] == [
        ("ada", datetime(2026, 1, 1, tzinfo=UTC), 500_000, 1),
        ("ben", datetime(2026, 2, 1, tzinfo=UTC), 10_000, 1),
        ("cyd", datetime(2026, 2, 1, tzinfo=UTC), 0, 0),
        ("dee", datetime(2026, 3, 1, tzinfo=UTC), 100_000, 1),
    ]
    for row in rows:
        assert row.granted_until in migrated.months
        assert row.due_at == row.granted_until
        assert row.ends_at is None
        assert (row.adjusted, row.expired, row.reversed, row.held, row.debt, row.alerts) == (0,) * 6
    anchors = {row.account_id: row.anchor for row in rows}
    # A quota that was counted in a month is found by the period.
    assert counted
    for row in counted:
        assert period_at(anchors[row.account_id], row.recorded_at).key == row.period_start


def test_balance_of_an_account_becomes_its_first_lot(migrated: Migrated) -> None:
    with migrated.engine.connect() as connection:
        rows = [
            {name: value for name, value in row.items() if name != "slot"}
            for row in connection.execute(select(tables.lots).order_by(tables.lots.c.account_id)).mappings()
        ]
        movements = connection.execute(
            select(
                tables.entries.c.account_id, tables.entries.c.lot, func.sum(tables.entries.c.amount)
            ).group_by(tables.entries.c.account_id, tables.entries.c.lot)
        ).all()
    whole = {
        "number": 1,
        "source": "carried_over",
        "priority": 50,
        "operation_id": None,
        "parent": None,
        "held": 0,
        "pending": 0,
        "is_noticed": False,
        "expires_at": None,
        "ended_at": None,
    }
    assert rows == [
        whole
        | {
            "account_id": 1,
            "granted": 776_000,
            "remaining": 626_000,
            "is_open": True,
            "effective_at": datetime(2026, 1, 31, 23, 59, 59, 999_999, UTC),
        },
        whole
        | {
            "account_id": 2,
            "granted": 10_000,
            "remaining": 0,
            "is_open": False,
            "effective_at": datetime(2026, 2, 28, 22, 30, tzinfo=UTC),
        },
        whole
        | {
            "account_id": 4,
            "granted": 150_000,
            "remaining": 150_000,
            "is_open": True,
            "effective_at": datetime(2026, 3, 1, tzinfo=UTC),
        },
    ]
    assert {(row["account_id"], row["number"], row["remaining"]) for row in rows} == {
        tuple(moved) for moved in movements
    }


def test_an_operation_names_its_entries(migrated: Migrated) -> None:
    with migrated.engine.connect() as connection:
        rows = connection.execute(select(tables.operations)).all()
        replaced = connection.execute(select(tables.superseded_outcomes)).all()
        posted = connection.execute(select(tables.entries.c.is_due)).scalars().all()
    assert {
        row.reference_id: (row.first_entry, row.last_entry or row.first_entry)
        for row in rows
        if row.first_entry is not None
    } == {
        "open-ada": (1, 1),
        "open-ben": (1, 1),
        "open-dee": (1, 1),
        "job-1": (2, 2),
        "job-2": (2, 2),
        "job-3": (3, 3),
        "job-5": (7, 7),
        "pay-1": (3, 4),
        "pay-2": (2, 2),
        "refund-1": (5, 5),
        "bonus-1": (6, 6),
    }
    assert all(row.last_entry is None for row in rows if row.first_entry is None)
    assert {row.notices for row in rows} == {None}
    assert [(row.first_entry, row.last_entry, row.notices) for row in replaced] == [(None, None, None)] * 2
    assert set(posted) == {False}


def test_every_guard_is_as_it_was(migrated: Migrated) -> None:
    later = {"operations_final"}  # a later migration lets more through there
    kept = {name: sql for name, sql in migrated.triggers.items() if name not in later}
    guards = triggers_of(migrated.engine)
    assert kept
    assert kept.items() <= guards.items()
    assert later <= guards.keys()


def test_ids_go_on_after_the_last(migrated: Migrated) -> None:
    with migrated.engine.connect() as connection:
        counter = connection.execute(select(tables.id_counters.c.counter, tables.id_counters.c.next_id)).one()
    assert counter.counter == 64
    assert counter.next_id > max(row["operation_id"] for row in migrated.rows["operations"])


def test_the_entries_of_postgresql_are_not_written_again(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The time limit for the statements of a batch does not limit the migration."""
    limits: set[str] = set()

    def note(connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("ALTER TABLE"):
            limits.add(connection.exec_driver_sql("SHOW statement_timeout").scalar_one())

    with at_0001("postgresql", request, tmp_path_factory) as engine:
        before = written(engine, "entries")
        event.listen(engine, "before_cursor_execute", note)
        migrate(engine, "0006")
        assert written(engine, "entries") == before
    assert limits == {"0"}


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_ledger_that_is_not_true_is_refused_and_left_as_it_was(
    dialect: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with at_0001(dialect, request, tmp_path_factory) as engine:
        with engine.begin() as connection:
            connection.exec_driver_sql(_ENTRY_OF_A_REJECTION)
        rows, triggers = rows_of(engine), triggers_of(engine)
        with pytest.raises(IntegrityError, match="rejected_moves_nothing"):
            migrate(engine)
        assert current_revision(engine) == "0001"
        assert rows_of(engine) == rows
        assert triggers_of(engine) == triggers


_ENTRY_OF_A_REJECTION = """
    INSERT INTO entries (account_id, sequence, operation_id, counter, amount, balance_before, balance_after,
        occurred_at, recorded_at)
    VALUES (1, 8, 2, 'bonus', 1, 626000, 626001, '2026-04-04 08:00:00.000000', '2026-04-04 08:00:00.000000')
"""


def written(engine: Engine, table: str) -> Sequence[Any]:
    """Place of every row, and the transaction that put it there."""
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT ctid, xmin FROM {table}")).all()  # noqa: S608 - the test's own


# -- what can't be done to it -----------------------------------------------------------------------------

ADA = slot_of("ada")
HOLD = {
    "operation_id": 7,
    "slot": ADA,
    "account_id": 1,
    "reference_id": "job-1",
    "amount": 10,
    "state": "open",
    "opened_at": NOW,
    "expires_at": NOW + timedelta(hours=1),
}
CLOSED = HOLD | {"operation_id": 12, "state": "expired", "closed_at": NOW, "closed_by": 15}
PART = {"operation_id": 7, "slot": ADA, "place": 1, "account_id": 1, "lot": 1, "amount": 10}
USAGE_REFUND = {
    "operation_id": 19,
    "slot": ADA,
    "original_id": 7,
    "account_id": 1,
    "tokens": 700,
    "recorded_at": NOW,
}
PAYMENT_EVENT = {
    "operation_id": 19,
    "slot": ADA,
    "account_id": 1,
    "reference_id": "dispute-1",
    "payment_reference": "pay-1",
    "happened": "disputed",
    "recorded_at": NOW,
}


def write_new(connection: Connection) -> None:
    """Write rows into every new table."""
    connection.execute(insert(tables.holds), HOLD)
    connection.execute(insert(tables.holds), CLOSED)
    connection.execute(insert(tables.hold_parts), PART)
    connection.execute(insert(tables.usage_refunds), USAGE_REFUND)
    connection.execute(insert(tables.payment_events), PAYMENT_EVENT)


APPEND_ONLY = (
    "entries",
    "quota_entries",
    "payments",
    "superseded_outcomes",
    "usage_refunds",
    "payment_events",
    "hold_parts",
)
RELEASED = "state = 'released', closed_at = opened_at, closed_by = 15"


def updates(table: str, where: str, *changes: str) -> list[str]:
    return [f"UPDATE {table} SET {change} WHERE {where}" for change in changes]  # noqa: S608 - the test's own


REFUSED = [
    *(f"DELETE FROM {table}" for table in (*APPEND_ONLY, "operations", "lots", "holds")),  # noqa: S608 - the same
    *updates("entries", "account_id = 1", "amount = 1", "lot = NULL", "is_due = true"),
    *updates("quota_entries", "account_id = 1", "amount = 1"),
    *updates("payments", "account_id = 1", "amount_minor = 1"),
    *updates("superseded_outcomes", "attempt = 1", "code = 1", "notices = '[]'"),
    *updates("usage_refunds", "account_id = 1", "tokens = 1"),
    *updates("payment_events", "account_id = 1", "collected = 1"),
    *updates("hold_parts", "account_id = 1", "amount = 1"),
    *updates(
        "operations",
        "reference_id = 'job-1'",
        "amount = 1",
        "first_entry = NULL",
        "last_entry = 3",
        "notices = '[]'",
        "attempt = 2",
    ),
    *updates("operations", "reference_id = 'job-poor'", "code = 1", "description = ''"),
    *updates(
        "lots",
        "account_id = 1",
        "account_id = 3",
        "number = 2",
        "operation_id = 1",
        "source = 'purchase'",
        "granted = granted + 1",
        "priority = 10",
        "effective_at = '2026-01-01 00:00:00.000000'",
        "expires_at = '2030-01-01 00:00:00.000000'",
        "parent = 1",
    ),
    *updates(
        "holds",
        "operation_id = 7",
        f"{RELEASED}, operation_id = 15",
        f"{RELEASED}, account_id = 2",
        f"{RELEASED}, reference_id = 'other'",
        f"{RELEASED}, amount = 11",
        f"{RELEASED}, opened_at = '2026-01-01 00:00:00.000000'",
        f"{RELEASED}, expires_at = '2020-01-01 00:00:00.000000'",
        "expires_at = '2020-01-01 00:00:00.000000'",
        "expires_at = '2030-01-01 00:00:00.000000', amount = 11",
        "state = 'open'",
        "captured = 0",
    ),
    *updates(
        "holds",
        "operation_id = 12",
        "state = 'open', closed_at = NULL, closed_by = NULL",
        "state = 'released'",
        "closed_by = 18",
    ),
]


@pytest.mark.parametrize("statement", REFUSED)
def test_written_row_is_not_rewritten(migrated: Migrated, statement: str) -> None:
    with undone(migrated.engine) as connection:
        write_new(connection)
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text(statement))


def test_a_notice_is_not_called_back(migrated: Migrated) -> None:
    with undone(migrated.engine) as connection:
        connection.execute(text("UPDATE lots SET is_noticed = true WHERE account_id = 1"))
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text("UPDATE lots SET is_noticed = false WHERE account_id = 1"))


@pytest.mark.parametrize("migrated", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", [*APPEND_ONLY, "operations", "lots", "holds"])
def test_truncate_is_refused(migrated: Migrated, table: str) -> None:
    refused = f"TRUNCATE on {table} is refused"  # by its own guard, and not by one of those that refer to it
    with undone(migrated.engine) as connection, pytest.raises(DBAPIError, match=refused):
        connection.execute(text(f"TRUNCATE {table} CASCADE"))


ALLOWED = [
    *updates(
        "lots",
        "account_id = 1",
        "remaining = remaining - 10, held = 5",
        "remaining = 0, held = 0, is_open = false",
        "is_noticed = true",
        "remaining = 626000, is_open = true",
    ),
    *updates(
        "holds",
        "operation_id = 7",
        "expires_at = '2030-01-01 00:00:00.000000'",
        f"{RELEASED}, expires_at = '2030-01-02 00:00:00.000000'",
    ),
    *updates(
        "operations",
        "reference_id = 'job-poor'",
        "attempt = 2",
        "attempt = 3, status = 1, amount = 1, first_entry = 4, last_entry = 5, notices = '[]'",
    ),
]


def test_allowed_updates_succeed(migrated: Migrated) -> None:
    with undone(migrated.engine) as connection:
        write_new(connection)
        for statement in ALLOWED:
            assert connection.execute(text(statement)).rowcount == 1, statement


ORPHANS = (
    (tables.entries, {"account_id": 99}),
    (tables.entries, {"sequence": 99, "operation_id": 99}),
    (tables.payments, {"operation_id": 99, "reference_id": "new"}),
    (tables.payments, {"operation_id": 1, "account_id": 99, "reference_id": "new"}),
    (tables.quotas, {"account_id": 99}),
    (tables.quota_entries, {"account_id": 99}),
    (tables.quota_entries, {"sequence": 99, "operation_id": 99}),
    (tables.superseded_outcomes, {"attempt": 99, "operation_id": 99}),
    (tables.lots, {"account_id": 99}),
    (tables.lots, {"number": 2, "operation_id": 99}),
    (tables.lots, {"number": 2, "parent": 99}),
    (tables.holds, {"operation_id": 99}),
    (tables.holds, {"operation_id": 1, "account_id": 99}),
    (tables.holds, {"operation_id": 1, "state": "released", "closed_at": NOW, "closed_by": 99}),
    (tables.hold_parts, {"operation_id": 99}),
    (tables.hold_parts, {"place": 2, "lot": 99}),
    (tables.usage_refunds, {"operation_id": 99}),
    (tables.usage_refunds, {"operation_id": 1, "original_id": 99}),
    (tables.usage_refunds, {"operation_id": 1, "account_id": 99}),
    (tables.payment_events, {"operation_id": 99, "reference_id": "new"}),
    (tables.payment_events, {"operation_id": 1, "account_id": 99, "reference_id": "new"}),
)


@pytest.mark.parametrize(("table", "changes"), ORPHANS, ids=str)
def test_a_row_without_what_it_belongs_to_is_refused(
    migrated: Migrated, table: Table, changes: dict[str, Any]
) -> None:
    with undone(migrated.engine) as connection:
        write_new(connection)
        row = connection.execute(select(table).limit(1)).mappings().one()
        with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
            connection.execute(insert(table), {**row, **changes})


def test_no_row_is_without_what_it_belongs_to(migrated: Migrated) -> None:
    astray = (
        "SELECT conname FROM pg_constraint WHERE NOT convalidated"
        if migrated.engine.dialect.name == "postgresql"
        else "PRAGMA foreign_key_check"
    )
    with migrated.engine.connect() as connection:
        assert connection.execute(text(astray)).all() == []
    with undone(migrated.engine) as connection, pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        connection.execute(text("DELETE FROM accounts WHERE account_id = 3"))


def test_usage_says_from_which_lot(migrated: Migrated) -> None:
    """The default that filled the old entries is gone."""
    entry = {
        "account_id": 1,
        "sequence": 8,
        "operation_id": 22,
        "slot": ADA,
        "counter": "usage",
        "amount": -1,
        "balance_after": 625_999,
        "feature": "",
        "is_due": False,
        "occurred_at": NOW,
        "recorded_at": NOW,
    }
    with undone(migrated.engine) as connection:
        connection.execute(insert(tables.entries), entry | {"lot": 1})
        with pytest.raises(IntegrityError, match="counter_gives_the_sign"):
            connection.execute(insert(tables.entries), entry | {"sequence": 9})


# -- the worker goes on -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def continued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The migrated history, for tests that add to it: each for a user of its own."""
    with at_0001(request.param, request, tmp_path_factory) as engine:
        migrate(engine)
        yield engine


def end_of_period(engine: Engine) -> datetime:
    with engine.connect() as connection:
        end: datetime = connection.execute(select(func.min(tables.accounts.c.granted_until))).scalar_one()
        return end


def replies(engine: Engine, *commands: Command, now: datetime | None = None) -> list[dict[str, Any]]:
    """Replies of the worker, a minute before the period ends if not at ``now``."""
    at = now or end_of_period(engine) - timedelta(minutes=1)
    answers = applied(engine, load_catalog(), *commands, now=at)
    return [json.loads(reply_for(*pair).to_json()) for pair in zip(commands, answers, strict=True)]


def lots_of(engine: Engine, user_id: str) -> list[tuple[str, int, bool]]:
    """Source, what remains, and whether it is open."""
    statement = select(tables.lots.c.source, tables.lots.c.remaining, tables.lots.c.is_open).join_from(
        tables.lots, tables.accounts
    )
    with engine.connect() as connection:
        rows = connection.execute(
            statement.where(tables.accounts.c.user_id == user_id).order_by(tables.lots.c.number)
        )
        return [(row.source, row.remaining, row.is_open) for row in rows]


def test_every_reference_of_before_has_its_outcome(migrated: Migrated) -> None:
    engine, stored = migrated.engine, migrated.rows["operations"] + migrated.rows["superseded_outcomes"]
    before = rows_of(engine)
    answered = replies(engine, *(sent_again(row) for row in stored))
    for row, reply in zip(stored, answered, strict=True):
        assert reply["duplicate"] is True, row
        named = ("status", "code", "amount", "balanceBefore", "balanceAfter", "transactionId")
        assert [reply.get(name) for name in named] == [
            row["status"],
            row["code"],
            row["amount"],
            row["balance_before"],
            row["balance_after"],
            str(row["operation_id"]),
        ]
    assert replies(engine, DeductUsage(reference_id="job-2", user_id="ben", tokens=1))[0]["field"] == "tokens"
    after = rows_of(engine)
    assert {name: after[name] for name in migrated.rows} == {name: before[name] for name in migrated.rows}


def sent_again(row: Mapping[str, Any]) -> Command:
    """The command that had this outcome."""
    named = {"referenceId": row["reference_id"], "userId": row["user_id"], "attempt": row["attempt"]}
    return COMMAND_TYPES[row["type"]].model_validate(json.loads(row["content"]) | named)


def test_usage_of_before_can_be_refunded_and_a_payment_taken_back(continued: Engine) -> None:
    ada = {"user_id": "ada"}
    refund = RefundCredit(reference_id="r-1", tokens=20_000, original_reference_id="job-1", **ada)
    too_much = RefundCredit(reference_id="r-2", tokens=100_001, original_reference_id="job-1", **ada)
    returned = PaymentRefunded(
        reference_id="r-3", original_reference_id="pay-1", amount_minor=1_999, currency="USD", **ada
    )
    first, second, third = replies(continued, refund, too_much, returned)
    assert (first["code"], first["balanceAfter"]) == ("tokens_refunded", 646_000)
    assert (second["code"], second["available"]) == ("refund_exceeds_original", 100_000)
    assert (third["code"], third["amount"]) == ("payment_refunded", 275_000)
    assert lots_of(continued, "ada") == [("carried_over", 371_000, True)]
    assert audit(continued).is_clean


def test_a_lot_of_before_that_is_used_up_is_opened_again_by_a_refund(continued: Engine) -> None:
    refund = RefundCredit(reference_id="r-4", user_id="ben", tokens=500, original_reference_id="job-2")
    assert replies(continued, refund)[0]["balanceAfter"] == 500
    assert lots_of(continued, "ben") == [("carried_over", 500, True)]
    spent, poor = replies(
        continued,
        DeductUsage(reference_id="job-6", user_id="ben", tokens=500),
        DeductUsage(reference_id="job-7", user_id="ben", tokens=1),
    )
    assert (spent["code"], poor["code"]) == ("tokens_deducted", "insufficient_balance")
    assert lots_of(continued, "ben") == [("carried_over", 0, False)]
    # The next period is granted as it begins: the tier renews by itself.
    renewed = replies(
        continued, SettleAccount(reference_id="s-1", user_id="ben"), now=end_of_period(continued)
    )
    assert renewed[0]["balanceAfter"] == 10_000
    assert lots_of(continued, "ben") == [("carried_over", 0, False), ("allocation", 10_000, True)]
    assert audit(continued).is_clean


def test_credit_of_later_is_spent_before_what_was_carried_over(continued: Engine) -> None:
    bonus, job = replies(
        continued,
        BonusCredit(reference_id="b-1", user_id="dee", tokens=50),
        DeductUsage(reference_id="job-8", user_id="dee", tokens=80),
    )
    assert (bonus["balanceAfter"], job["balanceAfter"]) == (150_050, 149_970)
    assert lots_of(continued, "dee") == [("carried_over", 149_970, True), ("bonus", 0, False)]
    assert audit(continued).is_clean


def test_an_account_that_never_had_tokens_gets_its_first_lot(continued: Engine) -> None:
    assert (
        replies(continued, BonusCredit(reference_id="b-2", user_id="cyd", tokens=7))[0]["balanceAfter"] == 7
    )
    assert lots_of(continued, "cyd") == [("bonus", 7, True)]
    assert audit(continued).is_clean
