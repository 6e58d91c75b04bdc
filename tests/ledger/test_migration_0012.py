"""Migration 0012: payments and their events have references, and what can't count waits beside the ledger."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Executable, MetaData, Table, select, text
from sqlalchemy.exc import DBAPIError

from schemas import DisputeClosed, PaymentRefunded, PaymentSucceeded, SettleAccount
from tests.ledger.history_0006 import write_history
from tests.support.apply_commands import applied
from tests.support.moved_payments import moved_events, moved_payments
from tests.support.provision import PostgresServer
from tests.support.true_ledger import CATALOG, OPENED
from worker.core import Decided
from worker.ledger.audit import audit
from worker.ledger.due import awaited_payments
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.tables import accounts, payment_events, payment_names, payments, waiting_events

Row = dict[str, Any]
LATER = OPENED.replace(year=2027)


@contextmanager
def new_database(
    dialect: str,
    request: pytest.FixtureRequest,
    folders: pytest.TempPathFactory,
    template: str | None = None,
) -> Iterator[Engine]:
    """A database, empty or a copy of ``template``: a file, or a database that nobody uses."""
    if dialect == "sqlite":
        path = folders.mktemp("payments") / "ledger.sqlite3"
        if template is not None:
            shutil.copy(template, path)
        engine = ledger_engine(f"sqlite:///{path}")
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"payments_{uuid4().hex[:12]}"
    server.databases.create_database(name, template)
    engine = ledger_engine(server.address.url(name))
    try:
        yield engine
    finally:
        engine.dispose()
        server.databases.drop_database(name)


@dataclass(frozen=True)
class MovedPayments:
    """The migrated ledger, and the rows of payments that were there before."""

    engine: Engine
    operations: list[Row]
    payments: list[Row]
    events: list[Row]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def moved_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MovedPayments]:
    """A ledger with everything of revision 0011 in it, and what it forgot without a word, migrated."""
    with new_database(request.param, request, tmp_path_factory) as engine:
        write_history(engine)
        migrate(engine, "0011")
        _forget(engine, "cyd-yen", "cyd-pay-3", user="cyd", currency="JPY")
        _forget(engine, "eve-lost", "cyd-pay-1", user="eve", currency="EUR")
        before = [_rows(engine, name) for name in ("operations", "payments", "payment_events")]
        migrate(engine)
        engine.dispose()
        yield MovedPayments(engine, *before)


@pytest.fixture
def moved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, moved_once: MovedPayments
) -> Iterator[MovedPayments]:
    """A copy of the migrated ledger, of this test's own."""
    template = moved_once.engine
    with new_database(template.dialect.name, request, tmp_path_factory, template.url.database) as engine:
        yield replace(moved_once, engine=engine)


def _forget(engine: Engine, reference: str, payment: str, *, user: str, currency: str) -> None:
    """Write a refund that waits for ever, as the worker of revision 0011 did: it is like ``cyd-lone``."""
    schema = MetaData()
    with engine.begin() as connection:
        operations = Table("operations", schema, autoload_with=connection)
        events = Table("payment_events", schema, autoload_with=connection)
        accounts = Table("accounts", schema, autoload_with=connection)
        own = select(accounts.c.account_id, accounts.c.slot).where(accounts.c.user_id == user)
        account = dict(connection.execute(own).mappings().one())
        lone = operations.c.reference_id == "cyd-lone"
        like = dict(connection.execute(select(operations).where(lone)).mappings().one())
        of_like = events.c.operation_id == like["operation_id"]
        event = dict(connection.execute(select(events).where(of_like)).mappings().one())
        balance = {"balance_before": 0, "balance_after": 0} if user == "eve" else {}
        number = {"operation_id": 1_000_000 + len(reference) + ord(reference[0]), "slot": account["slot"]}
        who = {"reference_id": reference, "user_id": user}
        connection.execute(operations.insert().values(**like | number | balance | who))
        named = {"payment_reference": payment, "currency": currency}
        connection.execute(events.insert().values(**event | number | account | named))


def _rows(engine: Engine, table: str) -> list[Row]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]  # noqa: S608


def _reference(row: Row) -> str:
    return str(row["reference_id"])


def test_payments_and_what_counts_for_them_have_references(moved: MovedPayments) -> None:
    paid = moved_payments(moved.payments, moved.operations)
    assert sorted(_rows(moved.engine, "payments"), key=_reference) == sorted(paid, key=_reference)
    events = moved_events(moved.events, moved.payments, moved.operations)
    assert sorted(_rows(moved.engine, "payment_events"), key=_reference) == sorted(events, key=_reference)
    assert {event["reference_id"] for event in events} >= {"cyd-early", "cyd-pay-2", "cyd-won"}


def test_payment_has_its_own_name_and_what_waits_has_one_as_well(moved: MovedPayments) -> None:
    name, payment = payment_names.c, payments.c
    with moved.engine.connect() as connection:
        names = {
            row.name: (row.payment_reference, row.user_id)
            for row in connection.execute(select(name.name, name.payment_reference, name.user_id))
        }
        paid = set(connection.execute(select(payment.reference_id)).scalars())
    assert {known: reference for known, (reference, _) in names.items() if reference} == {p: p for p in paid}
    assert names["cyd-pay-2"] == ("cyd-pay-2", "cyd")
    assert names["cyd-nowhere"] == (None, None)


def test_event_that_was_forgotten_waits_and_says_why(moved: MovedPayments) -> None:
    event = waiting_events.c
    asked = select(event.reference_id, event.name, event.user_id, event.amount_minor, event.reason)
    assert awaited_payments(moved.engine, LATER, 10) == []
    with moved.engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(asked.order_by(event.reference_id))]
    assert found == [
        ("cyd-lone", "cyd-nowhere", "cyd", 100, None),
        ("cyd-yen", "cyd-pay-3", "cyd", 100, "currency_mismatch"),
        ("eve-lost", "cyd-pay-1", "eve", 100, "other_user"),
    ]


def test_audit_of_the_moved_ledger_is_clean(moved: MovedPayments) -> None:
    assert audit(moved.engine, catalog=CATALOG).findings == ()


def test_moved_payment_goes_on_with_what_its_events_took(moved: MovedPayments) -> None:
    """A won dispute gave back to a lot of its own there; the whole of it goes back again."""
    before = balance_of(moved.engine)
    assert send(moved.engine, _refund("cyd-all", "cyd-pay-1", 999)) == ("payment_refunded", 85, "cyd")
    assert send(moved.engine, _refund("cyd-rest", "cyd-pay-2", 333)) == ("payment_refunded", 34, "cyd")
    assert balance_of(moved.engine) == before - 85 - 34
    assert audit(moved.engine, catalog=CATALOG).findings == ()


def test_moved_event_counts_when_its_payment_comes(moved: MovedPayments) -> None:
    paid = PaymentSucceeded(
        reference_id="cyd-nowhere", user_id="cyd", package_id="rich", amount_minor=999, currency="EUR"
    )
    before = balance_of(moved.engine)
    assert send(moved.engine, paid) == ("tokens_purchased", 100, "cyd")
    assert balance_of(moved.engine) == before + 90  # of 100, 9 and 1 for a tenth of the money
    assert "cyd-lone" not in {row["reference_id"] for row in _rows(moved.engine, "waiting_events")}
    assert audit(moved.engine, catalog=CATALOG).findings == ()


def test_lost_dispute_of_a_moved_payment_takes_nothing_twice(moved: MovedPayments) -> None:
    lost = DisputeClosed(
        reference_id="hal-lost-again",
        original_reference_id="hal-pay",
        dispute_id="y",
        result="lost",
        amount_minor=499,
        currency="USD",
        occurred_at=LATER,
    )
    assert send(moved.engine, lost) == ("dispute_lost", 0, "hal")


def _refund(reference: str, payment: str, minor: int) -> PaymentRefunded:
    return PaymentRefunded(
        reference_id=reference, original_reference_id=payment, amount_minor=minor, currency="EUR"
    )


def send(engine: Engine, command: Any) -> tuple[str, int | None, str]:
    (answer,) = applied(engine, CATALOG, command, now=LATER)
    assert isinstance(answer, Decided)
    return str(answer.outcome.code), answer.outcome.amount, answer.outcome.user_id


def balance_of(engine: Engine) -> int:
    """Return the balance of the payments' user, once all that is due is posted."""
    applied(engine, CATALOG, SettleAccount(reference_id=uuid4().hex, user_id="cyd"), now=LATER)
    with engine.connect() as connection:
        balance = select(accounts.c.balance).where(accounts.c.user_id == "cyd")
        return int(connection.execute(balance).scalar_one())


@pytest.mark.parametrize("table", [payments, payment_events], ids=lambda table: table.name)
def test_guards_stand_on_the_new_tables(moved: MovedPayments, table: Table) -> None:
    changes: list[Executable] = [table.update().values(amount_minor=1), table.delete()]
    if moved.engine.dialect.name == "postgresql":
        changes.append(text(f"TRUNCATE {table.name}"))
    for change in changes:
        with pytest.raises(DBAPIError, match="append-only"), moved.engine.begin() as connection:
            connection.execute(change)
