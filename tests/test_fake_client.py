"""Fake of the client: what it replies and answers is what a worker would."""

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import (
    AffordAnswer,
    BalanceAnswer,
    BonusCredit,
    Code,
    DeductUsage,
    FreezeAccount,
    OpenAccount,
    OperationAnswer,
    PaymentRefunded,
    PaymentSucceeded,
    QueryAfford,
    QueryBalance,
    QueryOperation,
    RefundFailed,
    UnfreezeAccount,
    UsageBatch,
)
from worker.catalog import load_catalog
from worker.client import BillingClient
from worker.errors import BrokerUnavailableError
from worker.fake_client import FakeBillingClient

OPEN = OpenAccount(reference_id="open", user_id="ann", tier="free")


def test_fake_replies_and_answers_as_a_worker_would() -> None:
    with FakeBillingClient() as client:
        assert client.request(OPEN).balance_after == 10_000
        reply = client.request(DeductUsage(reference_id="d", user_id="ann", tokens=400))
        assert (reply.status, reply.balance_after, reply.duplicate) == ("applied", 9_600, False)
        again = client.request(DeductUsage(reference_id="d", user_id="ann", tokens=400))
        assert (again.balance_after, again.duplicate) == (9_600, True)
        other = client.request(DeductUsage(reference_id="d", user_id="ann", tokens=401))
        assert other.code == "reference_conflict"
        items = tuple(DeductUsage(reference_id=f"b{n}", user_id="ann", tokens=9_000) for n in range(2))
        batch = client.request(UsageBatch(reference_id="b", items=items))
        assert (batch.applied, batch.rejected) == (1, 1)
        balance = client.ask(QueryBalance(user_id="ann"))
        assert isinstance(balance, BalanceAnswer)
        assert balance.balance == 600
        stored = client.ask(QueryOperation(reference_id="d"))
        assert isinstance(stored, OperationAnswer)
        assert stored.reply == again
        assert [message.reference_id for message in client.sent] == ["open", "d", "d", "d", "b"]


def test_fake_hands_the_trace_context_on() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with FakeBillingClient() as client:
        client.request(OPEN, traceparent=traceparent)
        assert client.reply_traceparent == traceparent
        client.ask(QueryBalance(user_id="ann"))
        assert client.reply_traceparent is None
        with pytest.raises(ValueError, match="00-TRACE-SPAN-FLAGS"):
            client.send(OPEN, traceparent="nonsense")


def test_fake_knows_what_happens_to_payments() -> None:
    money: Any = {"amount_minor": 499, "currency": "USD"}
    with FakeBillingClient() as client:
        client.send(OPEN)
        early = PaymentRefunded(reference_id="re", original_reference_id="ch", **money)
        assert client.request(early).code == "payment_awaited"
        paid = PaymentSucceeded(
            reference_id="pi", user_id="ann", package_id="starter", also_known_as=("ch",), **money
        )
        assert client.request(paid).balance_after == 10_000
        failed = RefundFailed(reference_id="rf", original_reference_id="pi", refund_reference_id="re")
        reply = client.request(failed)
        assert (reply.user_id, reply.balance_after) == ("ann", 60_000)
        freeze = FreezeAccount(reference_id="fr", payment_reference_id="ch", reason="fraud warning")
        assert client.request(freeze).user_id == "ann"
        assert client.request(DeductUsage(reference_id="d", user_id="ann", tokens=1)).code == "account_frozen"
        client.now += timedelta(seconds=1)  # of two at one time the freeze counts
        unfreeze = UnfreezeAccount(reference_id="un", user_id="ann", reason="checked")
        assert client.request(unfreeze).code == "freeze_ended"


def test_clock_of_the_fake_can_be_set() -> None:
    with FakeBillingClient(now=datetime(2026, 3, 1, tzinfo=UTC)) as client:
        ends = client.now + timedelta(days=1)
        client.send(OPEN)
        client.send(BonusCredit(reference_id="b", user_id="ann", tokens=50, expires_at=ends))
        client.now = ends
        answer = client.ask(QueryAfford(user_id="ann", tokens=10_001))
        assert getattr(answer, "available") == 10_000  # noqa: B009


def test_outage_can_be_played() -> None:
    with FakeBillingClient() as client:
        client.is_unavailable = True
        for call in (lambda: client.send(OPEN), lambda: client.ask(QueryBalance(user_id="ann"))):
            with pytest.raises(BrokerUnavailableError):
                call()
        client.is_unavailable = False
        assert client.request(OPEN).duplicate is False
        assert len(client.sent) == 1


def test_fake_has_the_methods_of_the_client() -> None:
    for name in ("send", "request", "ask"):
        real, fake = (inspect.signature(getattr(one, name)) for one in (BillingClient, FakeBillingClient))
        assert real == fake


def test_first_usage_opens_the_account_where_the_catalog_says_so() -> None:
    catalog = load_catalog().model_copy(update={"auto_open": "free"})
    with FakeBillingClient(catalog) as client:
        afford = client.ask(QueryAfford(user_id="new", tokens=9_000))
        assert isinstance(afford, AffordAnswer)
        assert (afford.affordable, afford.available, afford.sequence) == (True, 10_000, 0)
        reply = client.request(DeductUsage(reference_id="first", user_id="new", tokens=9_000))
        assert (reply.code, reply.opened_tier, reply.balance_after) == (Code.TOKENS_DEDUCTED, "free", 1_000)
        balance = client.ask(QueryBalance(user_id="new", min_sequence=reply.sequence))
        assert isinstance(balance, BalanceAnswer)
        assert balance.balance == 1_000
