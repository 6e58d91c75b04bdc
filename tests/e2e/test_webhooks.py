"""Webhooks through the bridge and a worker, on RabbitMQ and PostgreSQL: each is applied once."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.gateways.conftest import BridgeDoor, door_on, event_of
from tests.gateways.replay import replay_cases
from tests.gateways.signing import NOW
from tests.support.rabbit_client import RabbitClient, user_of
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import open_link
from worker.settings import Settings

OPEN = {"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "basic"}
OPENED, BOUGHT = 100_000, 275_000


@pytest.fixture
def application_(worker_settings: Settings) -> Iterator[Application]:
    """The application at the time of the webhooks."""
    application = Application(worker_settings, clock=lambda: datetime.fromtimestamp(NOW, UTC))
    yield application
    application.engine.dispose()


@pytest.fixture
def served(application_: Application, broker_url: str) -> Iterator[BridgeDoor]:
    """The door of the bridge, beside a worker."""

    with (
        running(application_),
        door_on(lambda: open_link(broker_url), sent_as=user_of(broker_url)) as door,
    ):
        yield door


def balance_after(rabbit: RabbitClient, name: str) -> Any:
    """Return the stored balance after the command of a row; a copy of it gets its first reply."""
    case = next(case for case in replay_cases("stripe") if case.name == name)
    (command,) = case.mapped().commands
    return rabbit.request(json.loads(command.to_json()))["balanceAfter"]


def test_payment_and_its_refund_come_by_webhook_and_count_once(
    served: BridgeDoor, rabbit: RabbitClient
) -> None:
    assert rabbit.request(OPEN)["code"] == "account_opened"
    for name in (
        "intent succeeded",
        "refund created and done",
        "refund of old, updated to done",
        "refund failed after it was done",
        "refund failed after it was done",
        "intent succeeded",
    ):
        assert served.post("stripe", event_of("stripe", name)).status_code == 200
    assert balance_after(rabbit, "intent succeeded") == OPENED + BOUGHT
    assert OPENED < balance_after(rabbit, "refund created and done") < OPENED + BOUGHT
    assert balance_after(rabbit, "refund failed after it was done") == OPENED + BOUGHT
