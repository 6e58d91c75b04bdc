"""Trace context of a message: in its reply, notices, dead letter and replay; a malformed one in none."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.fakes import FakeLink, delivery
from worker.catalog import Catalog
from worker.deadletters.replay.message import replay_of
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline

NOW = datetime(2026, 11, 27, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}
REJECTED_PAYMENT = {
    "type": "payment.succeeded",
    "referenceId": "pi",
    "userId": "u",
    "packageId": "gone",
    "amountMinor": 1,
    "currency": "USD",
}


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


def process(engine: Engine, catalog: Catalog, *messages: dict[str, Any], traceparent: object) -> FakeLink:
    pipeline = Pipeline(
        Ledger(engine), catalog, Policy(), clock=lambda: NOW, pause=lambda _: None, metrics=Metrics()
    )
    link = FakeLink()
    headers = {"traceparent": traceparent}
    items = pipeline.receive([replace(delivery(each), headers=headers) for each in messages])
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    return link


def test_trace_goes_on_into_reply_notice_and_dead_letter(engine: Engine, catalog: Catalog) -> None:
    malformed = {"type": "usage.deduct", "referenceId": "d"}
    link = process(engine, catalog, OPEN, REJECTED_PAYMENT, malformed, traceparent=TRACEPARENT)
    kinds = {type(message).__name__ for message in link.published}
    assert kinds == {"OutgoingReply", "OutgoingNotice", "OutgoingDeadLetter"}
    assert {message.headers["traceparent"] for message in link.published} == {TRACEPARENT}


@pytest.mark.parametrize("traceparent", ["nonsense", 7, b"\xff", TRACEPARENT.upper(), ""])
def test_malformed_trace_refuses_nothing_and_is_handed_to_nobody(
    engine: Engine, catalog: Catalog, traceparent: object
) -> None:
    link = process(engine, catalog, OPEN, traceparent=traceparent)
    assert [reply["status"] for reply in link.replies] == ["applied"]
    assert all("traceparent" not in message.headers for message in link.published)


def test_replay_has_the_trace_of_the_dead_letter(engine: Engine, catalog: Catalog) -> None:
    link = process(engine, catalog, {"type": "usage.deduct", "referenceId": "d"}, traceparent=TRACEPARENT)
    (dead_letter,) = link.dead_letters
    arrived = delivery(dead_letter.body, exchange="", queue="billing.dead", **dead_letter.properties)
    queue = FakeLink(replace(arrived, headers=dead_letter.headers), consume={"billing.dead": 10})
    service = DeadLetters(engine, catalog=catalog, clock=lambda: NOW)
    assert service.link_drainer(queue).drain_batch(0) == 1
    (kept,) = service.every_dead_letter(DeadLetterFilter())
    assert replay_of(kept, None, 1).headers["traceparent"] == TRACEPARENT
