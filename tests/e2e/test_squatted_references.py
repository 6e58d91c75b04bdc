"""Squatted references on RabbitMQ and PostgreSQL: usage takes the references of later payments."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from schemas import BonusCredit, OpenAccount
from tests.support.apply_commands import applied
from tests.support.expected_state import nothing_is_left
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.catalog import Catalog
from worker.ledger.audit import audit
from worker.ledger.tables import accounts, entries, operations

Message = dict[str, Any]

_UNKNOWN: Message = {"type": "usage.deduct", "referenceId": "pi_1", "userId": "nobody", "tokens": 5}
_ZEROS: list[Message] = [
    {"type": "usage.deduct", "referenceId": "pi_2", "userId": "ann", "tokens": 0},
    {"type": "usage.record", "referenceId": "pi_3", "userId": "ann", "meter": "ocr", "quantity": 0},
    {"type": "usage.free_upload", "referenceId": "pi_4", "userId": "ann", "bytes": 0},
]
_PAYMENTS: list[Message] = [
    {
        "type": "payment.succeeded",
        "referenceId": f"pi_{number}",
        "userId": "bob",
        "packageId": "starter",
        "amountMinor": 499,
        "currency": "USD",
    }
    for number in range(1, 5)
]


def _open(application: Application, catalog: Catalog) -> None:
    """Open an account with credit that has expired since, and a second account."""
    now = datetime.now(UTC)
    applied(
        application.engine,
        catalog,
        OpenAccount(reference_id="open-ann", user_id="ann", tier="free"),
        OpenAccount(reference_id="open-bob", user_id="bob", tier="free"),
        BonusCredit(reference_id="b", user_id="ann", tokens=70, expires_at=now - timedelta(days=1)),
        now=now - timedelta(days=2),
    )


def _ann(application: Application) -> tuple[Any, ...]:
    """Return the account row of ann and the number of its entries."""
    with application.engine.connect() as connection:
        row = connection.execute(select(accounts).where(accounts.c.user_id == "ann")).one()
        own = connection.execute(select(entries).where(entries.c.account_id == row.account_id)).all()
    return (*row, len(own))


def test_squatted_payment_is_applied_and_the_squatter_keeps_its_replies(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    _open(application, catalog)
    before = _ann(application)
    squats = [_UNKNOWN, *_ZEROS]
    with running(application):
        first = [rabbit.request(message) for message in squats]
        assert _ann(application) == before
        paid = [rabbit.request(message) for message in _PAYMENTS]
        again = [rabbit.request(message) for message in squats]
        higher = rabbit.request({**_UNKNOWN, "attempt": 2})
        (_, dead), *_ = rabbit.take(BILLING.dead.name, 1)
        nothing_is_left(rabbit)
    assert [(reply["status"], reply["code"]) for reply in first] == [
        ("rejected", "account_not_found"),
        ("applied", "tokens_deducted"),
        ("applied", "usage_recorded"),
        ("applied", "free_upload_counted"),
    ]
    # The expired tokens are left out, although their expiry is not posted yet.
    assert [reply["balanceAfter"] for reply in first[1:]] == [10_000] * 3
    assert [(reply["status"], reply["code"], reply["duplicate"]) for reply in paid] == [
        ("applied", "tokens_purchased", False)
    ] * 4
    assert again == [{**reply, "duplicate": True} for reply in first]
    assert (higher["code"], higher["field"]) == ("reference_conflict", "type")
    assert b'"pi_1"' in dead
    with application.engine.connect() as connection:
        is_taken = operations.c.is_taken
        kept = connection.execute(select(operations.c.reference_id, operations.c.type).where(is_taken))
        assert sorted(map(tuple, kept)) == [(squat["referenceId"], squat["type"]) for squat in squats]
    assert _ann(application) == before
    assert audit(application.engine).is_clean


def test_squats_and_payments_in_one_batch_give_the_same_result(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    """All messages wait before the worker starts: payments come first or together with the usage."""
    _open(application, catalog)
    squats = [_UNKNOWN, *_ZEROS]
    sent = dict(zip(rabbit.publish_all(squats + _PAYMENTS), squats + _PAYMENTS, strict=True))
    with running(application):
        replies = rabbit.replies(sent)
        nothing_is_left(rabbit)
    paid = [replies[key][0] for key, message in sent.items() if message["type"] == "payment.succeeded"]
    assert [reply["code"] for reply in paid] == ["tokens_purchased"] * 4
    assert audit(application.engine).is_clean


def test_attempt_too_far_ahead_is_a_conflict_and_a_dead_letter(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    _open(application, catalog)
    message = {"type": "usage.deduct", "referenceId": "job", "userId": "bob", "tokens": 5}
    with running(application):
        far = rabbit.request({**message, "attempt": 1_001})
        near = rabbit.request(message)
        ((properties, _),) = rabbit.take(BILLING.dead.name, 1)
        nothing_is_left(rabbit)
    assert (far["code"], far["field"], far["expected"]) == ("reference_conflict", "attempt", "at most 1000")
    assert near["code"] == "tokens_deducted"
    assert properties.headers["x-billing-reason"] == "reference_conflict"
    assert properties.headers["x-billing-message"] == (
        "The reference 'job' takes at most 1000 as its next attempt, not 1001. Nothing moved."
    )
