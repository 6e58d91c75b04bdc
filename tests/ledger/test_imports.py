"""Imported accounts in the database: rebuilt from their rows, explained, looked back at, and proved true."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from schemas import ChangeSubscription, Code, Command
from tests.support.apply_commands import applied
from tests.support.commands import (
    change,
    deduct,
    failed,
    importing,
    opening,
    payment,
    settling,
    upload,
    went_back,
)
from tests.support.strategies import NOW, SMALL_CATALOG, examples
from tests.support.true_ledger import unguarded
from worker.core import Answer, Conflict, Counter, Decided
from worker.errors import NotFoundError
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.ledger.queries.imports import foreseen, posted_imports
from worker.ledger.senders import Sender
from worker.ledger.tables import accounts

DAY = timedelta(days=1)
PAYMENT = {
    "referenceId": "p",
    "amountMinor": 999,
    "currency": "EUR",
    "packageId": "gone",
    "tokens": 90,
    "bonusTokens": 10,
    "paidAt": "2026-11-10T00:00:00Z",
    "provider": "stripe",
}
WHOLE = importing(
    lots=[
        {"source": "allocation", "tokens": 40, "granted": 250, "expiresAt": "2026-12-03T00:00:00Z"},
        {"source": "purchase", "tokens": 30, "paymentReferenceId": "p"},
        {"source": "purchase_bonus", "tokens": 10, "paymentReferenceId": "p"},
        {"source": "bonus", "tokens": 7, "expiresAt": "2026-11-24T00:00:00Z"},
        {"source": "carried_over", "tokens": 5},
    ],
    totals={
        "allocated": 2_400,
        "purchased": 300,
        "bonus": 90,
        "refunded": 20,
        "adjusted": -13,
        "used": 2_295,
        "expired": 400,
        "reversed": 10,
    },
    quotas=[{"meter": "free_upload", "used": 12}, {"meter": "page", "used": 2}],
    payments=[PAYMENT],
)

Do = Callable[..., Sequence[Answer]]


@pytest.fixture
def do(engine: Engine) -> Do:
    """Apply commands in one transaction, by the small catalog."""

    def apply(*commands: Command, now: datetime = NOW, **more: Any) -> Sequence[Answer]:
        return applied(engine, SMALL_CATALOG, *commands, now=now, **more)

    return apply


def assert_true(engine: Engine) -> None:
    """Fail the test unless the audit is clean."""
    assert audit(engine, catalog=SMALL_CATALOG).findings == ()


def codes(answers: Sequence[Answer]) -> list[Code]:
    return [Code.REFERENCE_CONFLICT if isinstance(a, Conflict) else a.outcome.code for a in answers]


def test_balance_of_an_import_is_whole(engine: Engine, do: Do, reader: Reader) -> None:
    do(WHOLE)
    balance = reader.balance("u", NOW, SMALL_CATALOG)
    assert balance.balance == balance.available == 92
    sums = ("allocated", "purchased", "bonus", "refunded", "adjusted", "used", "expired", "reversed")
    assert [getattr(balance, name) for name in sums] == [2_400, 300, 90, 20, -13, 2_295, 400, 10]
    assert balance.lots == {
        "allocation": 40,
        "purchase": 30,
        "purchase_bonus": 10,
        "bonus": 7,
        "carried_over": 5,
    }
    assert {quota.name: quota.used for quota in balance.quotas} == {"free_upload": 12, "page": 2, "search": 0}
    assert f"{balance.opened_at:%F} {balance.subscription.granted_until:%F}" == "2024-01-05 2026-12-03"
    assert_true(engine)


def test_redelivered_import_is_a_duplicate(engine: Engine, do: Do) -> None:
    do(WHOLE)
    (again,) = do(WHOLE, now=NOW + DAY)
    assert isinstance(again, Decided)
    assert again.duplicate
    assert_true(engine)


def test_import_is_true_with_every_due_thing_posted(engine: Engine, do: Do, reader: Reader) -> None:
    do(WHOLE, now=NOW + 45 * DAY)
    assert reader.balance("u", NOW + 45 * DAY, SMALL_CATALOG).balance == 45
    assert_true(engine)


@pytest.mark.parametrize(
    "command",
    [
        importing(),
        importing(debt=70),
        importing(debt=70, totals={"purchased": 100, "used": 150, "reversed": 20}),
        importing(tier="steady", asOf="2026-10-04T00:00:00Z", anchor="2026-10-03T00:00:00Z"),
        importing(tier="steady", asOf="2026-10-04T00:00:00Z", anchor="2026-10-03T00:00:00Z", debt=30),
        importing(
            lots=[{"source": "carried_over", "tokens": 5}],
            totals={"adjusted": -10, "reversed": -20, "used": 5},
        ),
        importing(lots=[{"source": "allocation", "tokens": 9}] * 2),
        importing(payments=[PAYMENT, {**PAYMENT, "referenceId": "q", "bonusTokens": 0}]),
    ],
    ids=lambda command: str(command.content()["lots"] or command.debt),
)
def test_every_kind_of_import_is_true(engine: Engine, do: Do, command: Command) -> None:
    assert codes(do(command)) == [Code.ACCOUNT_IMPORTED]
    assert_true(engine)
    do(settling(reference_id="later"), now=NOW + 60 * DAY)
    assert_true(engine)


def test_imported_payment_goes_back_and_is_explained(engine: Engine, do: Do, reader: Reader) -> None:
    do(WHOLE, sender=Sender("ops", "billing-worker import"))
    assert codes(do(payment(reference_id="p"))) == [Code.REFERENCE_CONFLICT]
    assert codes(do(went_back(333), now=NOW + DAY)) == [Code.PAYMENT_REFUNDED]
    assert codes(do(failed(reference_id="f"), now=NOW + 5 * DAY)) == [Code.PAYMENT_FAILED]
    assert_true(engine)
    found = reader.explain("p", NOW + 5 * DAY, SMALL_CATALOG)
    assert found.asked is not None
    assert (found.asked.type, f"{found.asked.occurred_at:%F}") == ("payment.import", "2026-11-10")
    assert found.outcomes[0].sender is not None
    assert found.outcomes[0].sender.broker_user == "ops"
    assert [(e.counter, e.amount) for e in found.entries] == [
        ("purchases", 90),
        ("usage", -60),
        ("bonus", 10),
    ]
    assert found.payment is not None
    assert (found.payment.base_tokens, found.payment.collected) == (90, 100)
    assert [event.happened for event in found.payment_events] == ["refunded", "failed"]


def test_import_is_explained_with_all_its_entries(do: Do, reader: Reader) -> None:
    do(WHOLE)
    found = reader.explain("import-u", NOW, SMALL_CATALOG)
    assert found.asked is not None
    assert found.asked.type == "account.import"
    assert sum(entry.amount for entry in found.entries) == 92 - 40
    assert found.reply is not None
    assert found.reply["code"] == "account_imported"


def test_imported_past_is_in_no_report_on_usage(do: Do, reader: Reader) -> None:
    do(WHOLE)
    do(deduct(12, "d"), now=NOW + DAY)
    report = reader.usage("u", NOW + DAY, SMALL_CATALOG, days=5)
    assert (report.total_used, report.projection.days_observed) == (12, 2)


def test_balance_before_an_import_is_unknown(do: Do, reader: Reader) -> None:
    do(WHOLE)
    with pytest.raises(NotFoundError, match="it came from another system at 2026-11-22T10:15:00"):
        reader.balance_at("u", NOW - timedelta(seconds=1), SMALL_CATALOG)
    with pytest.raises(NotFoundError, match="had no token account"):
        reader.balance_at("u", NOW - 3_000 * DAY, SMALL_CATALOG)


def test_past_balance_after_an_import_equals_the_balance_shown_then(do: Do, reader: Reader) -> None:
    said = {}
    for day, command in enumerate(
        [
            WHOLE,
            deduct(20, "d"),
            upload(5, "up"),
            change("steady", reference_id="c"),
            went_back(333),
            deduct(1, "e"),
        ]
    ):
        now = NOW + 4 * day * DAY
        do(command, now=now)
        said[now] = reader.balance("u", now, SMALL_CATALOG)
    for now, balance in said.items():
        assert reader.balance_at("u", now, SMALL_CATALOG) == balance


def test_tier_of_an_empty_import_is_known_after_a_change(do: Do, reader: Reader) -> None:
    do(importing(tier="empty"))
    do(ChangeSubscription(reference_id="c", user_id="u", tier="idle"), now=NOW + DAY)
    past = reader.balance_at("u", NOW + timedelta(hours=1), SMALL_CATALOG)
    assert (past.subscription.tier, f"{past.subscription.granted_until:%F}") == ("empty", "2026-12-03")


def test_import_says_when_it_came(engine: Engine, do: Do) -> None:
    do(opening(user_id="v", reference_id="v"), WHOLE)
    with engine.connect() as connection:
        rows = connection.execute(
            select(accounts.c.user_id, accounts.c.opened_at, accounts.c.imported_at)
        ).all()
    assert {row.user_id: (f"{row.opened_at:%F}", row.imported_at) for row in rows} == {
        "u": ("2024-01-05", NOW),
        "v": ("2026-11-22", None),
    }


def test_rejected_import_leaves_no_account(engine: Engine, do: Do) -> None:
    assert codes(do(importing(tier="gone"))) == [Code.UNKNOWN_TIER]
    with engine.connect() as connection:
        assert connection.execute(select(accounts)).all() == []


def test_import_of_many_payments_has_its_ids(engine: Engine, do: Do) -> None:
    payments = [{**PAYMENT, "referenceId": f"pi-{number}"} for number in range(500)]
    do(*(importing(f"u{number}", payments=[]) for number in range(10)), importing(payments=payments))
    assert_true(engine)


_worlds = count()
_TOTAL = st.integers(0, 60)


@settings(examples(25), suppress_health_check=list(HealthCheck))
@drawn(
    came=st.fixed_dictionaries(dict.fromkeys(("allocated", "purchased", "bonus", "refunded"), _TOTAL)),
    signed=st.fixed_dictionaries({name: st.integers(-30, 30) for name in ("adjusted", "reversed")}),
    expired=_TOTAL,
    left=st.lists(
        st.tuples(st.sampled_from(["allocation", "purchase", "bonus", "carried_over"]), st.integers(1, 20)),
        max_size=4,
    ),
)
def test_import_of_any_totals_is_true(
    engine: Engine, came: dict[str, int], signed: dict[str, int], expired: int, left: list[tuple[str, int]]
) -> None:
    user, tokens = f"u{next(_worlds)}", sum(number for _, number in left)
    for source, number in left:
        name = {"allocation": "allocated", "purchase": "purchased", "bonus": "bonus"}.get(source, "refunded")
        came[name] += number
    balance = sum(came.values()) + signed["adjusted"] - signed["reversed"] - expired
    used = max(balance - tokens, 0)
    debt = max(tokens - balance, 0)
    if debt and left:
        came["refunded"], debt = came["refunded"] + debt, 0
    command = importing(
        user,
        lots=[{"source": source, "tokens": number} for source, number in left],
        totals={**came, **signed, "expired": expired, "used": used},
        debt=debt,
    )
    assert codes(applied(engine, SMALL_CATALOG, command, now=NOW)) == [Code.ACCOUNT_IMPORTED]
    assert_true(engine)


# -- before and after it is sent --------------------------------------------------------------------------


def test_foreseen_answers_are_those_given(engine: Engine, do: Do) -> None:
    do(opening(user_id="v", reference_id="v"), payment(reference_id="q", user_id="v"))
    do(importing("done", debt=5), deduct(5, "squatted", "nobody"))
    commands = [
        WHOLE,
        importing("v"),
        importing("done", debt=5),
        importing("done", referenceId="import-done", debt=6),
        importing("w", payments=[{**PAYMENT, "referenceId": "q"}]),
        importing("x", payments=[{**PAYMENT, "referenceId": "squatted"}]),
        importing("y", tier="gone"),
        importing("z", payments=[PAYMENT]),
    ]
    with engine.connect() as connection:
        before = foreseen(connection, commands, NOW, SMALL_CATALOG)
    given = do(*commands)
    assert codes(before) == codes(given)
    assert codes(given)[5:] == [Code.ACCOUNT_IMPORTED, Code.UNKNOWN_TIER, Code.REFERENCE_TAKEN]
    assert_true(engine)


def test_posted_sums_are_those_of_the_command_whatever_came_since(engine: Engine, do: Do) -> None:
    empty, owing, paid = (
        importing("v"),
        importing("w", debt=5),
        importing("x", payments=[{**PAYMENT, "referenceId": "q"}]),
    )
    do(WHOLE, empty, owing, paid)
    do(deduct(20, "d"), upload(3, "up"), went_back(333))
    with engine.connect() as connection:
        posted = posted_imports(connection, [WHOLE, empty, owing, paid, importing("never")])
    assert {name: one.balance for name, one in posted.items()} == {
        "import-u": 92,
        "import-v": 0,
        "import-w": -5,
        "import-x": 0,
    }
    assert posted["import-u"].sums[Counter.USAGE] == -2_295
    assert posted["import-u"].quotas == {"free_upload": 12, "page": 2}
    assert posted["import-u"].payments.keys() == {"p"}
    assert posted["import-x"].sums == {Counter.PURCHASES: 90, Counter.BONUS: 10, Counter.USAGE: -100}


# -- corrupted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE operations SET amount = amount + 1 WHERE reference_id = 'import-u'", "operation_amount"),
        ("UPDATE operations SET amount = amount + 1 WHERE reference_id = 'p'", "operation_amount"),
        ("UPDATE lots SET granted = granted + 1 WHERE source = 'carried_over'", "lot_granted"),
        ("UPDATE lots SET granted = granted + 1 WHERE source = 'refund'", "lot_granted"),
        ("UPDATE payments SET base_tokens = base_tokens + 1", "payment_base"),
        ("DELETE FROM payments", "payment_missing"),
        ("UPDATE quota_entries SET amount = amount + 1 WHERE meter = 'page'", "quota_used"),
        ("UPDATE accounts SET reversed = reversed + 1", "reversed"),
    ],
)
def test_corrupted_import_is_found(do: Do, database_url: str, statement: str, check: str) -> None:
    do(WHOLE)
    engine = unguarded(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    found = {finding.check for finding in audit(engine, catalog=SMALL_CATALOG).findings}
    engine.dispose()
    assert check in found
