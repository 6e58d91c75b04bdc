"""Rejected payments: a notice with the money, a line of the log, a count; each once, the notice again."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.support.fakes import FakeLink, delivery
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.ledger.tables import operations
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline

NOW = datetime(2026, 11, 26, tzinfo=UTC)
Message = dict[str, Any]

OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}
UNKNOWN_PACKAGE = {
    "type": "payment.succeeded",
    "referenceId": "stripe:pi_1",
    "userId": "u",
    "packageId": "gone",
    "amountMinor": 1_999,
    "currency": "USD",
}
PAID = {**UNKNOWN_PACKAGE, "referenceId": "paid", "packageId": "standard"}
OTHER_CURRENCY = {
    "type": "payment.refunded",
    "referenceId": "re_1",
    "originalReferenceId": "paid",
    "amountMinor": 5,
    "currency": "EUR",
}
TOTAL = {
    "type": "payment.refunded",
    "referenceId": "re_2",
    "originalReferenceId": "paid",
    "refundedTotalMinor": 7,
    "currency": "EUR",
    "occurredAt": "2026-11-25T00:00:00Z",
}
OF_NO_PAYMENT = {**OTHER_CURRENCY, "referenceId": "re_3", "originalReferenceId": "open"}
SUBSCRIPTION = {
    "type": "subscription.change",
    "referenceId": "sub",
    "userId": "u",
    "tier": "gone",
    "payment": {"referenceId": "in_1", "amountMinor": 900, "currency": "EUR"},
}


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def pipeline(engine: Engine, catalog: Catalog, metrics: Metrics) -> Pipeline:
    pipeline = Pipeline(
        Ledger(engine), catalog, Policy(), clock=lambda: NOW, pause=lambda _: None, metrics=metrics
    )
    process(pipeline, OPEN)
    process(pipeline, PAID)
    return pipeline


def process(pipeline: Pipeline, *messages: Message) -> FakeLink:
    link = FakeLink()
    items = pipeline.receive([delivery(message, correlation_id="c") for message in messages])
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    return link


def rejected(metrics: Metrics, code: str) -> float | None:
    return metrics.registry.get_sample_value("billing_payments_rejected_total", {"code": code})


@pytest.mark.parametrize(
    ("message", "user", "code", "amount", "currency"),
    [
        (UNKNOWN_PACKAGE, "u", "unknown_package", 1_999, "USD"),
        (OTHER_CURRENCY, "u", "currency_mismatch", 5, "EUR"),
        (TOTAL, "u", "currency_mismatch", 7, "EUR"),
        (OF_NO_PAYMENT, None, "original_not_found", 5, "EUR"),
        (SUBSCRIPTION, "u", "unknown_tier", 900, "EUR"),
    ],
    ids=["payment", "refund", "total", "of no payment", "subscription"],
)
def test_rejected_payment_is_noticed_with_its_code_and_money(
    pipeline: Pipeline,
    metrics: Metrics,
    message: Message,
    user: str | None,
    code: str,
    amount: int,
    currency: str,
) -> None:
    (outgoing,) = process(pipeline, message).notices
    notice = outgoing.notice
    assert (outgoing.routing_key, notice.type, notice.user_id) == ("payment.rejected",) * 2 + (user,)
    assert (notice.code, notice.amount_minor, notice.currency) == (code, amount, currency)
    assert (notice.reference_id, notice.recorded_at) == (message["referenceId"], NOW)
    assert rejected(metrics, code) == 1


def test_redelivered_payment_has_the_same_notice_and_is_counted_once(
    pipeline: Pipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first, again = (process(pipeline, UNKNOWN_PACKAGE).notices[0] for _ in range(2))
    assert first.notice == again.notice
    assert rejected(metrics, "unknown_package") == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "rejected the payment 'stripe:pi_1' (unknown_package): see `billing-worker payments`; "
        "mend the cause, then `billing-worker retry`"
    )


def test_each_attempt_has_a_notice_of_its_own(pipeline: Pipeline) -> None:
    first, second = (
        process(pipeline, {**UNKNOWN_PACKAGE, "attempt": attempt}).notices[0].notice for attempt in (1, 2)
    )
    assert first.id != second.id
    late = process(pipeline, {**UNKNOWN_PACKAGE, "attempt": 1}).notices[0].notice
    assert late == first


def test_every_rejected_payment_of_a_batch_has_a_line(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        process(pipeline, *({**UNKNOWN_PACKAGE, "referenceId": f"p-{n}"} for n in range(3)))
    assert [record.getMessage().split()[3] for record in caplog.records] == ["'p-0'", "'p-1'", "'p-2'"]


def test_stored_outcome_of_a_rejected_payment_has_no_notices(pipeline: Pipeline, engine: Engine) -> None:
    process(pipeline, UNKNOWN_PACKAGE)
    statement = select(operations.c.notices).where(operations.c.reference_id == "stripe:pi_1")
    with engine.connect() as connection:
        assert connection.execute(statement).scalar_one() is None


@pytest.mark.parametrize(
    "message",
    [
        {"type": "usage.deduct", "referenceId": "d", "userId": "u", "tokens": 10**9},
        {**SUBSCRIPTION, "payment": None},
        {**OTHER_CURRENCY, "referenceId": "early", "originalReferenceId": "to-come"},
    ],
    ids=["usage", "subscription without money", "event that waits"],
)
def test_other_outcome_has_no_notice_line_or_count(
    pipeline: Pipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture, message: Message
) -> None:
    with caplog.at_level(logging.WARNING):
        assert process(pipeline, {k: v for k, v in message.items() if v is not None}).notices == []
    assert not any(
        sample.value for metric in metrics.payments_rejected.collect() for sample in metric.samples
    )
    assert caplog.records == []
