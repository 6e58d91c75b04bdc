"""The migration to slots: a filled ledger of revision 0006 comes out row for row as expected."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from schemas import (
    COMMAND_TYPES,
    BonusCredit,
    Code,
    Command,
    DeductUsage,
    RefundCredit,
    SettleUsage,
    slot_of,
)
from tests.ledger.history_0006 import EACH, write_deductions, write_history
from tests.support.apply_commands import applied
from tests.support.moved_payments import ADDED, moved_events, moved_payments
from tests.support.narrowed_rows import COUNTERS, narrowed_entry, narrowed_operation
from tests.support.provision import PostgresServer
from tests.support.true_ledger import CATALOG, OPENED
from worker.core import reply_for
from worker.errors import ConfigurationError
from worker.ledger import tables
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision

MIGRATION = import_module("worker.ledger.migrations.versions.0007_slots")

Row = dict[str, Any]
Rows = Mapping[str, list[Row]]

#: Codes that no outcome in the ledger has: answers to commands that are refused before, or to batches.
NOT_STORED = {Code.BATCH_PROCESSED, Code.REFERENCE_CONFLICT, Code.MALFORMED, Code.UNPROCESSABLE}
#: Types and codes of later versions.
LATER_TYPES = {
    "usage.extend",
    "account.import",
    "payment.import",
    "payment.refund_failed",
    "payment.named",
    "account.freeze",
    "account.unfreeze",
}
LATER_CODES = {
    Code.HOLD_EXTENDED,
    Code.HOLD_SETTLED_LATE,
    Code.TOO_LATE,
    Code.ACCOUNT_IMPORTED,
    Code.PAYMENT_IMPORTED,
    Code.REFERENCE_TAKEN,
    Code.ALLOCATION_OUTLASTS_PERIOD,
    Code.PURCHASE_FLAGGED,
    Code.REFUND_FAILED,
    Code.PAYMENT_NAMED,
    Code.CANCELLATION_LATE,
    Code.REFUND_STYLE_MIXED,
    Code.INQUIRY_OPENED,
    Code.DISPUTE_PREVENTED,
    Code.DISPUTE_WITHDRAWN,
    Code.CHANGE_SCHEDULED,
    Code.FREEZE_BEGAN,
    Code.FREEZE_ENDED,
    Code.ACCOUNT_FROZEN,
}
#: References that another command took from a usage.
TAKEN = {"taken-1", "taken-2", "taken-3", "taken-4", "eve-due-1", "eve-due-2"}


@dataclass(frozen=True)
class Moved:
    """The migrated ledger, and the rows that were in it before, as the database's own values."""

    engine: Engine
    before: Rows


@contextmanager
def new_database(
    dialect: str, request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An empty database."""
    if dialect == "sqlite":
        engine = ledger_engine(f"sqlite:///{folders.mktemp('slots') / 'ledger.sqlite3'}")
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"slots_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    engine = ledger_engine(server.address.url(name))
    try:
        yield engine
    finally:
        engine.dispose()
        server.databases.drop_database(name)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """The worker's history after the migration; no test changes it."""
    with new_database(request.param, request, tmp_path_factory) as engine:
        write_history(engine)
        before = rows_of(engine)
        migrate(engine)
        yield Moved(engine, before)


@pytest.fixture(params=["sqlite", "postgresql"])
def sixth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The worker's history before the migration."""
    with new_database(request.param, request, tmp_path_factory) as engine:
        write_history(engine)
        yield engine


def rows_of(engine: Engine) -> Rows:
    """Every row of the ledger's tables."""
    with engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(_all_of(table.name)).mappings()]
            for table in tables.LEDGER
        }


def _all_of(table: str) -> Any:
    return text(f"SELECT * FROM {table}")  # noqa: S608 - a name of the schema


# -- the rows that are expected ---------------------------------------------------------------------------


def expected(before: Rows) -> Rows:
    """The rows that must be there after the migration."""
    users = {row["account_id"]: row["user_id"] for row in before["accounts"]}
    kept, taken = parted(before)
    own = {
        table: [row | {"slot": slot_of(users[row["account_id"]])} | ADDED.get(table, {}) for row in rows]
        for table, rows in before.items()
        if table not in ("accounts", "operations", "superseded_outcomes", "entries", "quota_entries")
    }
    paid, happened = own["payments"], own["payment_events"]
    return own | {
        "payments": moved_payments(paid, before["operations"]),
        "payment_events": moved_events(happened, paid, before["operations"]),
        "accounts": [
            row | {"slot": slot_of(row["user_id"]), "imported_at": None} | ADDED["accounts"]
            for row in before["accounts"]
        ],
        "operations": [narrowed_operation(outcome(row) | {"is_taken": False}) for row in before["operations"]]
        + [narrowed_operation(outcome(row) | {"is_taken": True}) for row in taken],
        "superseded_outcomes": [outcome(row) for row in kept],
        "entries": [narrowed_entry(entry(row, users[row["account_id"]])) for row in before["entries"]],
        "quota_entries": [
            without(row, "used_before") | {"slot": slot_of(users[row["account_id"]])}
            for row in before["quota_entries"]
        ],
    }


def parted(before: Rows) -> tuple[list[Row], list[Row]]:
    """Superseded outcomes, and the latest ones of former owners, with the ids they get."""
    owners = {row["operation_id"]: (row["type"], row["user_id"]) for row in before["operations"]}
    kept, former = list[Row](), dict[tuple[int, str, str], list[Row]]()
    for row in before["superseded_outcomes"]:
        key = (row["operation_id"], row["type"], row["user_id"])
        if owners[row["operation_id"]] == key[1:]:
            kept.append(row)
        else:
            former.setdefault(key, []).append(row)
    taken = list[Row]()
    for own_id, key in enumerate(sorted(former), max(owners) + 1):
        *earlier, latest = sorted(former[key], key=lambda row: int(row["attempt"]))
        kept += [row | {"operation_id": own_id} for row in earlier]
        taken.append(latest | {"operation_id": own_id})
    return kept, taken


def outcome(row: Row) -> Row:
    numbers = {
        "type": IDENTIFIERS["type"][row["type"]],
        "status": IDENTIFIERS["status"][row["status"]],
        "code": IDENTIFIERS["code"][row["code"]],
    }
    return row | numbers | {"slot": slot_of(row["user_id"]), "sender_id": None, "catalog_id": None}


def entry(row: Row, user_id: str) -> Row:
    return without(row, "balance_before", "due_at") | {
        "slot": slot_of(user_id),
        "counter": COUNTERS[row["counter"]],
        "is_due": row["due_at"] is not None,
        "occurred_at": row["occurred_at"] if row["due_at"] is None else row["due_at"],
        "feature": row["feature"] or "",
    }


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def in_order(rows: Sequence[Row], table: str) -> list[Row]:
    key = [column.name for column in tables.metadata.tables[table].primary_key]
    return sorted(rows, key=lambda row: [row[name] for name in key])


# -- rows -------------------------------------------------------------------------------------------------


def test_history_holds_everything(moved: Moved) -> None:
    before = moved.before
    assert all(before.values())
    outcomes = before["operations"] + before["superseded_outcomes"]
    assert {row["code"] for row in outcomes} == set(Code) - NOT_STORED - LATER_CODES
    assert {row["type"] for row in outcomes} == set(IDENTIFIERS["type"]) - LATER_TYPES
    assert {row["counter"] for row in before["entries"]} == set(IDENTIFIERS["counter"])
    assert {row["due_at"] is None for row in before["entries"]} == {True, False}
    assert {row["state"] for row in before["holds"]} == {"open", "settled", "released", "expired"}
    assert any(row["debt"] for row in before["accounts"])
    assert {row["reference_id"] for row in before["superseded_outcomes"]} >= TAKEN


@pytest.mark.parametrize("table", [table.name for table in tables.LEDGER])
def test_every_row_comes_out_as_expected(moved: Moved, table: str) -> None:
    after = rows_of(moved.engine)[table]
    assert in_order(after, table) == in_order(expected(moved.before)[table], table)


def test_rows_keep_their_order(moved: Moved) -> None:
    """The index on the times of operations needs neighbours that were recorded together."""
    after = rows_of(moved.engine)
    assert after["entries"] == expected(moved.before)["entries"]
    assert after["operations"] == expected(moved.before)["operations"]


def test_columns_are_in_the_order_of_the_tables(moved: Moved) -> None:
    """The order decides how wide a row is."""
    inspector = inspect(moved.engine)
    for table in tables.LEDGER:
        assert [column["name"] for column in inspector.get_columns(table.name)] == list(table.c.keys())


def test_users_in_two_forms_have_one_slot(moved: Moved) -> None:
    slots = {row["user_id"]: row["slot"] for row in rows_of(moved.engine)["accounts"]}
    assert slots["zoe\u0308"] == slots["zo\u00eb"] == slot_of("zo\u00eb")
    assert slots["\u2126-\u1112\u1161\u11ab"] == slot_of("\u03a9-\ud55c")


def test_taken_reference_has_one_operation_in_force_and_one_taken(moved: Moved) -> None:
    operations = rows_of(moved.engine)["operations"]
    ids = [row["operation_id"] for row in operations]
    assert len(set(ids)) == len(ids)
    for reference in TAKEN:
        found = [row for row in operations if row["reference_id"] == reference]
        assert sorted(bool(row["is_taken"]) for row in found) == [False, True]
    assert {row["reference_id"] for row in operations if row["is_taken"]} == TAKEN


def test_every_foreign_key_holds(moved: Moved) -> None:
    astray = (
        "SELECT conname FROM pg_constraint WHERE NOT convalidated"
        if moved.engine.dialect.name == "postgresql"
        else "PRAGMA foreign_key_check"
    )
    with moved.engine.connect() as connection:
        assert connection.execute(text(astray)).all() == []


# -- beside the rows --------------------------------------------------------------------------------------


def test_ids_go_on_above_the_largest(moved: Moved) -> None:
    operations = rows_of(moved.engine)["operations"]
    with moved.engine.connect() as connection:
        counters = connection.execute(_all_of("id_counters")).all()
    assert list(map(tuple, counters)) == [(64, max(row["operation_id"] for row in operations) + 1)]


def test_numbers_are_those_of_the_worker(moved: Moved) -> None:
    with moved.engine.connect() as connection:
        rows = connection.execute(_all_of("identifiers")).all()
    assert {(row.kind, row.name, row.number) for row in rows} == {
        (kind, name, number) for kind, numbers in IDENTIFIERS.items() for name, number in numbers.items()
    }


def test_old_tables_are_gone(moved: Moved) -> None:
    names = inspect(moved.engine).get_table_names()
    assert not [name for name in names if name.endswith("_0006") or name == "former_owners"]


def test_rights_on_the_old_tables_are_rights_on_the_new(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rights = text(
        "SELECT relname, grantee::regrole::text AS grantee, privilege_type, is_grantable"
        " FROM pg_class, aclexplode(relacl)"
        " WHERE relname IN ('entries', 'operations') AND grantee <> relowner"
    )
    role = f"reader {uuid4().hex[:8]}"
    with new_database("postgresql", request, tmp_path_factory) as engine:
        write_history(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(f'CREATE ROLE "{role}"')
            connection.exec_driver_sql(f'GRANT SELECT ON entries TO "{role}" WITH GRANT OPTION')
            connection.exec_driver_sql("GRANT SELECT, INSERT ON operations TO PUBLIC")
            before = connection.execute(rights).all()
        migrate(engine)
        with engine.begin() as connection:
            assert sorted(connection.execute(rights).all()) == sorted(before)
            assert len(before) == 3
            connection.exec_driver_sql(f'DROP OWNED BY "{role}"')
            connection.exec_driver_sql(f'DROP ROLE "{role}"')


# -- refusals ---------------------------------------------------------------------------------------------

_UNKNOWN_CODE = """
    INSERT INTO operations (reference_id, type, user_id, attempt, content, status, code, recorded_at)
    VALUES ('x', 'usage.deduct', 'ada', 1, '{}', 'rejected', 'of_a_later_version', '2026-11-22 10:15:00')
"""


def test_name_without_a_number_is_refused_and_nothing_changes(sixth: Engine) -> None:
    with sixth.begin() as connection:
        connection.exec_driver_sql(_UNKNOWN_CODE)
    before = rows_of(sixth)
    with pytest.raises(IntegrityError, match="code"):
        migrate(sixth)
    assert current_revision(sixth) == "0006"
    assert rows_of(sixth) == before


def test_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    name = f"ascii_{uuid4().hex[:12]}"
    admin = ledger_engine(postgres.address.url("postgres")).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    admin.dispose()
    engine = ledger_engine(postgres.address.url(name))
    try:
        migrate(engine, "0006")
        with pytest.raises(ConfigurationError, match="encoding is SQL_ASCII"):
            migrate(engine)
        assert current_revision(engine) == "0006"
    finally:
        engine.dispose()
        postgres.databases.drop_database(name)


REFUSED = [
    *(f"DELETE FROM {table.name}" for table in tables.LEDGER if table.name not in ("accounts", "quotas")),  # noqa: S608 - names of the schema
    *(f"UPDATE {table} SET slot = slot + 1" for table in MIGRATION._APPEND_ONLY if table != "senders"),  # noqa: S608 - the same
    "UPDATE entries SET lot = 1 - lot",
    "UPDATE lots SET slot = 1 - slot",
    "UPDATE holds SET slot = 1 - slot WHERE state = 'open'",
    "UPDATE operations SET is_taken = false WHERE is_taken",
    "UPDATE operations SET attempt = attempt + 1 WHERE is_taken AND status = 2",
    "UPDATE operations SET is_taken = true, content = '' WHERE reference_id = 'ada-poor'",
    "UPDATE operations SET user_id = 'ben', attempt = 2 WHERE reference_id = 'ada-poor'",
    "UPDATE operations SET operation_id = 1000, attempt = 2 WHERE reference_id = 'ada-poor'",
    "UPDATE operations SET code = 3 WHERE reference_id = 'ada-use'",
    "UPDATE operations SET sender_id = 1 WHERE reference_id = 'ada-use'",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_written_row_is_not_rewritten(moved: Moved, statement: str) -> None:
    with moved.engine.connect() as connection:
        with pytest.raises(DBAPIError, match="append-only"):
            connection.exec_driver_sql(statement)
        connection.rollback()


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("UPDATE operations SET is_taken = true WHERE reference_id = 'ada-use'", "taken_moved_nothing"),
        ("UPDATE operations SET is_taken = true WHERE reference_id = 'ada-pay'", "taken_moved_nothing"),
        ("UPDATE accounts SET slot = (slot + 1) & 63 WHERE user_id = 'ada'", r"(?i)slot_of_user|foreign key"),
    ],
)
def test_untrue_row_is_refused(moved: Moved, change: str, constraint: str) -> None:
    with moved.engine.connect() as connection:
        with pytest.raises(IntegrityError, match=constraint):
            connection.exec_driver_sql(change)
        connection.rollback()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE operations SET is_taken = true WHERE reference_id = 'ada-poor'",
        "UPDATE operations SET attempt = 2, description = 'anew' WHERE reference_id = 'ada-poor'",
        "UPDATE lots SET is_noticed = true",
    ],
)
def test_allowed_update_succeeds(moved: Moved, change: str) -> None:
    with moved.engine.connect() as connection:
        assert connection.exec_driver_sql(change).rowcount
        connection.rollback()


# -- the worker goes on -----------------------------------------------------------------------------------


def test_audit_is_clean(moved: Moved) -> None:
    assert audit(moved.engine).is_clean


def test_redelivered_command_gets_its_first_reply(sixth: Engine) -> None:
    """A usage whose reference was taken has a transaction id of its own now; all else is as it was."""
    old = rows_of(sixth)
    migrate(sixth)
    before = rows_of(sixth)
    own_ids = {
        (row["reference_id"], row["user_id"]): row["operation_id"]
        for row in before["operations"]
        if row["is_taken"]
    }
    expected_ids = [row["operation_id"] for row in old["operations"]] + [
        own_ids.get((row["reference_id"], row["user_id"]), row["operation_id"])
        if row["type"].startswith("usage.")
        else row["operation_id"]
        for row in old["superseded_outcomes"]
    ]
    stored = old["operations"] + old["superseded_outcomes"]
    answered = replies(sixth, [sent_again(row) for row in stored])
    for row, own_id, reply in zip(stored, expected_ids, answered, strict=True):
        assert reply["duplicate"] is True, row
        names = ("status", "code", "amount", "balanceBefore", "balanceAfter", "transactionId")
        assert [reply.get(name) for name in names] == [
            row["status"],
            row["code"],
            row["amount"],
            row["balance_before"],
            row["balance_after"],
            str(own_id),
        ]
    assert rows_of(sixth) == before


def test_worker_goes_on_with_what_was_there(sixth: Engine) -> None:
    migrate(sixth)
    codes = [
        reply["code"]
        for reply in replies(
            sixth,
            [
                DeductUsage(reference_id="new-use", user_id="zoe\u0308", tokens=1),
                SettleUsage(
                    reference_id="new-settle",
                    user_id="\u2126-\u1112\u1161\u11ab",
                    original_reference_id="ohm-hold",
                    tokens=1,
                ),
                RefundCredit(
                    reference_id="new-back", user_id="ada", original_reference_id="ada-anew", tokens=1
                ),
                BonusCredit(reference_id="ada-poor", user_id="ben", tokens=5),  # takes it
                DeductUsage(reference_id="anew-2", user_id="zo\u00eb", tokens=5_000, attempt=4),
            ],
            now=OPENED + timedelta(days=82),
        )
    ]
    assert codes == [
        "tokens_deducted",
        "hold_settled_late",
        "tokens_refunded",
        "bonus_granted",
        "insufficient_balance",
    ]
    assert audit(sixth).is_clean


def sent_again(row: Mapping[str, Any]) -> Command:
    """The command that had this outcome."""
    named = {"referenceId": row["reference_id"], "userId": row["user_id"], "attempt": row["attempt"]}
    if row["type"] == "credit.adjust":  # they are no part of the content
        named |= {"reason": "slip", "actor": "ann"}
    return COMMAND_TYPES[row["type"]].model_validate(json.loads(row["content"]) | named)


def replies(engine: Engine, commands: Sequence[Command], now: datetime = OPENED) -> list[Row]:
    answers = applied(engine, CATALOG, *commands, now=now)
    return [json.loads(reply_for(*pair).to_json()) for pair in zip(commands, answers, strict=True)]


# -- large ledgers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [4_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@pytest.mark.timeout(1_200)
def test_large_ledger_is_moved_whole(
    dialect: str,
    entries: int,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with new_database(dialect, request, tmp_path_factory) as engine:
        write_deductions(engine, entries)
        seconds = timed(lambda: migrate(engine))
        with capsys.disabled():
            sys.stdout.write(f"\n{entries} entries on {dialect} moved in {seconds:.1f} s\n")
        counts = "SELECT count(*), sum({}) FROM {}"
        with engine.connect() as connection:
            moved = connection.exec_driver_sql(counts.format("balance_after", "entries")).one()
            judged = connection.exec_driver_sql(counts.format("operation_id", "operations")).one()
            opened = connection.exec_driver_sql(counts.format("balance", "accounts")).one()
        accounts = entries // EACH
        assert tuple(moved) == (entries, accounts * sum(1_001 - n for n in range(1, EACH + 1)))
        assert tuple(judged) == (entries, entries * (entries + 1) // 2)
        assert tuple(opened) == (accounts, accounts * (1_001 - EACH))
        assert audit(engine).is_clean


def timed(work: Callable[[], None]) -> float:
    """Seconds that ``work`` takes."""
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at
