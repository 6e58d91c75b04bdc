"""Freezing on a real broker: a fraud warning stops usage, of the right user and by the right senders."""

from typing import Any

import pytest

from schemas import OpenAccount, PaymentSucceeded
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from worker.bootstrap import Application

FREEZE = {
    "type": "account.freeze",
    "referenceId": "stripe:issfr_1",
    "paymentReferenceId": "stripe:ch_1",
    "reason": "early fraud warning",
}
UNFREEZE = {
    "type": "account.unfreeze",
    "referenceId": "case-17",
    "userId": "ann",
    "reason": "checked",
}


@pytest.fixture
def ann(application: Application) -> None:
    """An account with a payment, which has another name."""
    applied(
        application.engine,
        application.catalog,
        OpenAccount(reference_id="open", user_id="ann", tier="free"),
        PaymentSucceeded(
            reference_id="stripe:pi_1",
            user_id="ann",
            package_id="starter",
            amount_minor=499,
            currency="USD",
            also_known_as=("stripe:ch_1",),
        ),
    )


def deduct(reference: str, attempt: int = 1) -> dict[str, Any]:
    named = {"type": "usage.deduct", "referenceId": reference, "userId": "ann"}
    return {**named, "tokens": 5, "attempt": attempt}


@pytest.mark.usefixtures("ann")
def test_fraud_warning_stops_usage_until_it_is_lifted(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    workers.start("--workers", "2")
    frozen = rabbit.request(FREEZE)
    assert (frozen["code"], frozen["userId"]) == ("freeze_began", "ann")
    assert rabbit.request(deduct("job-1"))["code"] == "account_frozen"
    assert rabbit.request(UNFREEZE)["code"] == "freeze_ended"
    assert rabbit.request(deduct("job-1"))["code"] == "account_frozen"
    assert rabbit.request(deduct("job-1", attempt=2))["code"] == "tokens_deducted"
    assert rabbit.request(FREEZE) == {**frozen, "duplicate": True}
