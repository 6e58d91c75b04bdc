"""Fixtures of the bridge: a door in this process, over a broker of the test's choice."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from schemas import Limits
from tests.gateways.replay import replay_cases
from tests.gateways.signing import NOW, OLD_SECRET, SECRET, paddle_header, stripe_header
from tests.support.rabbit_client import user_of
from worker.bootstrap import utc_now
from worker.broker import Publishes, open_link
from worker.gateways.bridge import Bridge, Endpoint
from worker.gateways.configuration import BridgeConfig, Secrets, endpoints_of
from worker.gateways.publishing import CommandPublisher
from worker.http.webhooks import WebhookDoor, create_webhooks_app
from worker.metrics import Metrics
from worker.runtime.cached_value import CachedValue

HEADERS = {"stripe": ("Stripe-Signature", stripe_header), "paddle": ("Paddle-Signature", paddle_header)}

#: Configuration with the tables of the replay.
CONFIG: dict[str, Any] = {
    "stripe": {
        "packages": {"price_Standard": "standard"},
        "tiers": {"price_Pro": "pro", "price_Basic": "basic", "pro plan/2017": "pro"},
        "customers": {"cus_Ada": "ada"},
    },
    "paddle": {
        "packages": {"pri_Standard": "standard", "pri_Plus": "plus"},
        "tiers": {"pri_Pro": "pro", "pri_Basic": "basic"},
        "customers": {"ctm_Ada": "ada"},
    },
}


def endpoints(config: dict[str, Any] | None = None) -> tuple[Endpoint, ...]:
    """Return the endpoints of a configuration."""
    secrets = Secrets(stripe=(OLD_SECRET, SECRET), paddle=(SECRET,))
    return tuple(endpoints_of(BridgeConfig.model_validate(config or CONFIG), secrets))


def event_of(gateway: str, name: str) -> Any:
    """Return the event of a row of the replay tables."""
    return next(case.event for case in replay_cases(gateway) if case.name == name)


@dataclass
class BridgeDoor:
    """BridgeDoor of the bridge, with its parts."""

    app: Flask
    metrics: Metrics
    stopping: list[bool]

    def post(self, gateway: str, event: Any, *, path: str | None = None, **headers: str) -> TestResponse:
        """Send an event (or bytes) with a good signature, or with the headers that are given."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        name, header_of = HEADERS[gateway]
        given = headers or {name: header_of(body)}
        return self.app.test_client().post(
            path or f"/webhooks/{gateway}", data=body, headers=given, content_type="application/json"
        )

    def problem(self, gateway: str, event: Any, status: int, **more: Any) -> dict[str, Any]:
        """Send an event that must meet a problem; return it."""
        response = self.post(gateway, event, **more)
        assert response.status_code == status, response.text
        assert response.mimetype == "application/problem+json"
        problem: dict[str, Any] = response.get_json()
        assert problem["status"] == status
        assert problem["detail"]
        return problem

    def count(self, gateway: str, type_: str, result: str) -> float:
        """Return a count of webhooks."""
        value = self.metrics.registry.get_sample_value(
            "billing_worker_webhooks_total", {"gateway": gateway, "type": type_, "result": result}
        )
        return value or 0.0


@contextmanager
def door_on(connect: Callable[[], Publishes], **more: Any) -> Iterator[BridgeDoor]:
    """Open a door whose publisher connects by ``connect``, at the time of the signatures."""

    def clock() -> datetime:
        return datetime.fromtimestamp(NOW, UTC)

    publisher = CommandPublisher(connect, sent_as=more.pop("sent_as", None), clock=clock)
    metrics, stopping = Metrics(), [False]
    bridge = Bridge(
        publisher,
        limits=Limits(),
        clock=clock,
        seconds=lambda: float(NOW),
        **more,
    )
    readiness = CachedValue(
        publisher.probe, name="the broker", max_age_s=0.0, timeout_s=30.0, clock=utc_now, pause_factor=0
    )
    app = create_webhooks_app(WebhookDoor(bridge, endpoints(), readiness, metrics, lambda: stopping[0]))
    try:
        yield BridgeDoor(app, metrics, stopping)
    finally:
        publisher.close()


@pytest.fixture
def door(broker_url: str) -> Iterator[BridgeDoor]:
    """The door over RabbitMQ."""
    with door_on(lambda: open_link(broker_url, name="bridge test"), sent_as=user_of(broker_url)) as door:
        yield door
