"""Names of payments: an event finds its payment by any of them, whichever of the two comes first."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import permutations
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, func, select

from schemas import COMMAND_TYPES, Command, SettleAccount
from tests.support.distributed_database import distributed_database
from tests.support.forms import transacted
from tests.support.provision import PostgresServer
from worker.catalog import load_catalog
from worker.core import Answer, Decided
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.due import awaited_payments
from worker.ledger.form import LedgerForm
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, payment_events, payment_names, waiting_events

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MUCH_LATER = NOW + timedelta(days=400)
CATALOG = load_catalog()
WHOLE = 275_000


def command(type_: str, reference: str, **fields: Any) -> Command:
    return COMMAND_TYPES[type_].model_validate({"type": type_, "referenceId": reference, **fields})


def opened(user: str) -> Command:
    return command("account.open", f"open-{user}", userId=user, tier="basic")


def paid(user: str, name: str, *other_names: str) -> Command:
    more = {"alsoKnownAs": other_names} if other_names else {}
    money = {"packageId": "standard", "amountMinor": 1999, "currency": "USD"}
    return command("payment.succeeded", name, userId=user, **money, **more)


def refunded(reference: str, name: str, minor: int = 1999) -> Command:
    return command("payment.refunded", reference, originalReferenceId=name, amountMinor=minor, currency="USD")


@pytest.fixture(scope="module")
def stand_in(postgres: PostgresServer) -> Iterator[Engine]:
    """A distributed ledger for all tests of this module, whose users are their own."""
    with distributed_database(postgres, only_by_key=True) as engine:
        yield engine


@pytest.fixture(params=list(LedgerForm))
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """A ledger of each form."""
    name = "stand_in" if request.param is LedgerForm.DISTRIBUTED else "postgres_engine"
    return Ledger(request.getfixturevalue(name), request.param)


def engine_of(ledger: Ledger, request: pytest.FixtureRequest) -> Engine:
    is_distributed = request.node.callspec.params["ledger"] is LedgerForm.DISTRIBUTED
    found: Engine = request.getfixturevalue("stand_in" if is_distributed else "postgres_engine")
    return found


def despite_contention(ledger: Ledger, *commands: Command) -> Sequence[Answer]:
    for _ in range(30):
        try:
            return transacted(ledger, commands, NOW, CATALOG)
        except ContentionError:
            continue
    raise AssertionError("the ledger stays contended")


def balance(engine: Engine, user: str) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(
            select(accounts.c.balance).where(accounts.c.user_id == user)
        ).scalar_one()
        return found


def code_of(answer: Answer) -> str:
    assert isinstance(answer, Decided)
    return answer.outcome.code.value


def test_event_finds_its_payment_by_any_name_and_without_a_user(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    engine = engine_of(ledger, request)
    user = f"ada-{uuid4().hex}"
    names = [f"{user}:pi", f"{user}:ch", f"{user}:cs"]
    despite_contention(ledger, opened(user))
    despite_contention(ledger, paid(user, *names))
    for number, name in enumerate(names):
        (answer,) = despite_contention(ledger, refunded(f"{user}:re:{number}", name, 500))
        assert code_of(answer) == "payment_refunded"
        assert isinstance(answer, Decided)
        assert answer.outcome.user_id == user
    assert balance(engine, user) == 100_000 + WHOLE - 250_000 * 1500 // 1999 - 25_000 * 1500 // 1999
    (again,) = despite_contention(ledger, refunded(f"{user}:re:0", names[0], 500))
    assert isinstance(again, Decided)
    assert again.duplicate


@pytest.mark.parametrize("kind", ["apart", "at once"])
def test_event_before_its_payment_counts_when_that_comes(
    ledger: Ledger, request: pytest.FixtureRequest, kind: str
) -> None:
    engine = engine_of(ledger, request)
    user = f"bob-{uuid4().hex}"
    despite_contention(ledger, opened(user))
    refund, payment = refunded(f"{user}:re", f"{user}:ch"), paid(user, f"{user}:pi", f"{user}:ch")
    if kind == "apart":
        despite_contention(ledger, refund)
        despite_contention(ledger, payment)
    else:
        despite_contention(ledger, refund, payment)
    settle_what_waits(ledger, engine)
    assert balance(engine, user) == 100_000
    (again,) = despite_contention(ledger, refund)
    assert isinstance(again, Decided)
    assert (again.duplicate, code_of(again)) == (True, "payment_awaited")


def settle_what_waits(ledger: Ledger, engine: Engine) -> None:
    """Do what the scheduler does for events that wait although their payment is there."""
    for number in range(10):
        users = [awaited.user_id for awaited in awaited_payments(engine, MUCH_LATER, 100)]
        if not users:
            return
        for user in users:
            reference = f"looked-{number}-{user}-{uuid4().hex}"
            despite_contention(ledger, SettleAccount(reference_id=reference, user_id=user))
    raise AssertionError("events wait although their payments are there")


def test_event_and_payment_at_once_never_miss_each_other(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    engine = engine_of(ledger, request)
    rounds, prefix = 25, uuid4().hex
    start = Barrier(3)

    def work(worker: int) -> None:
        chance = random.Random(worker)
        for number in range(rounds):
            user = f"{prefix}-{number}"
            mine = [
                [paid(user, f"{user}:pi", f"{user}:ch")],
                [refunded(f"{user}:re", f"{user}:ch", 1000)],
                [refunded(f"{user}:re2", f"{user}:pi", 999)],
            ][worker]
            start.wait(30)
            if chance.random() < 0.5:
                despite_contention(ledger, *mine)
            else:
                despite_contention(ledger, opened(f"{user}-{worker}"), *mine)

    for number in range(rounds):
        despite_contention(ledger, opened(f"{prefix}-{number}"))
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, worker) for worker in range(3)]:
            done.result()
    settle_what_waits(ledger, engine)
    with engine.connect() as connection:
        found = connection.execute(
            select(func.count(), func.sum(accounts.c.balance)).where(
                accounts.c.user_id.in_([f"{prefix}-{number}" for number in range(rounds)])
            )
        ).one()
        assert tuple(found) == (rounds, rounds * 100_000)
        assert connection.execute(select(func.count()).select_from(waiting_events)).scalar_one() == 0
        unbound = select(func.count()).where(payment_names.c.user_id.is_(None))
        assert connection.execute(unbound).scalar_one() == 0
    if request.node.callspec.params["ledger"] is not LedgerForm.DISTRIBUTED:
        assert audit(engine).is_clean


def named(reference: str, name: str, *others: str) -> Command:
    return command("payment.named", reference, originalReferenceId=name, alsoKnownAs=others)


def test_names_join_a_payment_and_its_refund_in_any_order(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    engine = engine_of(ledger, request)
    for order in permutations(range(4)):
        user = f"ivy-{uuid4().hex}"
        events = [
            paid(user, f"{user}:in"),
            named(f"{user}:n1", f"{user}:in", f"{user}:pi"),
            named(f"{user}:n2", f"{user}:ch", f"{user}:pi"),
            refunded(f"{user}:re", f"{user}:ch"),
        ]
        despite_contention(ledger, opened(user))
        for place in order:
            despite_contention(ledger, events[place])
            despite_contention(ledger, events[place])  # its copy changes nothing
        settle_what_waits(ledger, engine)
        assert balance(engine, user) == 100_000, order
        assert names_in(engine, user) == {(f"{user}:{end}", f"{user}:in") for end in ("in", "pi", "ch")}


def names_in(engine: Engine, user: str) -> set[tuple[str, str]]:
    name = payment_names.c
    with engine.connect() as connection:
        found = connection.execute(
            select(name.name, name.payment_reference).where(name.name.startswith(f"{user}:"))
        )
        return {tuple(row) for row in found}


def test_payment_names_and_refund_at_once_never_miss_each_other(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    engine = engine_of(ledger, request)
    rounds, prefix, start = 15, uuid4().hex, Barrier(4)

    def work(worker: int) -> None:
        for number in range(rounds):
            user = f"{prefix}-{number}"
            mine = [
                paid(user, f"{user}:in"),
                named(f"{user}:n1", f"{user}:in", f"{user}:pi"),
                named(f"{user}:n2", f"{user}:pi", f"{user}:ch"),
                refunded(f"{user}:re", f"{user}:ch"),
            ][worker]
            start.wait(30)
            despite_contention(ledger, mine)

    for number in range(rounds):
        despite_contention(ledger, opened(f"{prefix}-{number}"))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, worker) for worker in range(4)]:
            done.result()
    settle_what_waits(ledger, engine)
    for number in range(rounds):
        user = f"{prefix}-{number}"
        assert len(names_in(engine, user)) == 3
        assert {payment for _, payment in names_in(engine, user)} == {f"{user}:in"}
        assert balance(engine, user) == 100_000
    if request.node.callspec.params["ledger"] is not LedgerForm.DISTRIBUTED:
        assert audit(engine).is_clean


def test_payment_before_its_account_is_credited_when_that_opens(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    engine = engine_of(ledger, request)
    user = f"cyd-{uuid4().hex}"
    (answer,) = despite_contention(ledger, paid(user, f"{user}:pi", f"{user}:ch"))
    assert code_of(answer) == "account_not_found"
    despite_contention(ledger, refunded(f"{user}:re", f"{user}:ch"))
    despite_contention(ledger, opened(user))
    settle_what_waits(ledger, engine)
    assert balance(engine, user) == 100_000
    with engine.connect() as connection:
        name = payment_events.c.payment_reference
        happened = select(payment_events.c.happened).where(name == f"{user}:pi")
        assert set(connection.execute(happened).scalars()) == {"refunded", "succeeded"}


def test_second_payment_may_not_have_a_name_of_the_first(ledger: Ledger) -> None:
    user = f"dan-{uuid4().hex}"
    despite_contention(ledger, opened(user))
    despite_contention(ledger, paid(user, f"{user}:pi", f"{user}:ch"))
    (answer,) = despite_contention(ledger, paid(user, f"{user}:cs", f"{user}:ch"))
    assert code_of(answer) == "reference_taken"


def test_rejected_payment_binds_no_name(ledger: Ledger) -> None:
    user, other = f"eve-{uuid4().hex}", f"fay-{uuid4().hex}"
    despite_contention(ledger, opened(other))
    (answer,) = despite_contention(ledger, paid(user, f"{user}:pi", f"{other}:pi"))
    assert code_of(answer) == "account_not_found"
    (answer,) = despite_contention(ledger, paid(other, f"{other}:pi"))
    assert code_of(answer) == "tokens_purchased"


def test_event_that_cannot_count_says_why_it_waits(ledger: Ledger, request: pytest.FixtureRequest) -> None:
    engine = engine_of(ledger, request)
    user = f"gus-{uuid4().hex}"
    despite_contention(ledger, opened(user))
    euros = refunded(f"{user}:re", f"{user}:pi").model_copy(update={"currency": "EUR"})
    despite_contention(ledger, euros)
    despite_contention(ledger, paid(user, f"{user}:pi"))
    with engine.connect() as connection:
        reason = select(waiting_events.c.reason).where(waiting_events.c.reference_id == f"{user}:re")
        assert connection.execute(reason).scalar_one() == "currency_mismatch"
    assert awaited_payments(engine, MUCH_LATER, 10) == []
    assert balance(engine, user) == 100_000 + WHOLE
    with engine.begin() as connection:  # the next tests of this module find nothing that waits
        connection.execute(waiting_events.delete().where(waiting_events.c.reference_id == f"{user}:re"))
