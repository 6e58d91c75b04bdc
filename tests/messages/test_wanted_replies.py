"""Wanted replies: all, those about problems, or none; outcomes, dead letters and notices are as without."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.fakes import FakeLink, delivery
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.messages.policy import SCHEDULER_APP_ID, Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline

NOW = datetime(2026, 11, 26, tzinfo=UTC)
Message = dict[str, Any]


def deduct(reference: str = "d", tokens: int = 10, **more: Any) -> Message:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "u", "tokens": tokens, **more}


def batch(*items: Message, **more: Any) -> Message:
    return {"type": "usage.batch", "referenceId": "b", "userId": "u", "items": list(items), **more}


OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}
APPLIED, REJECTED = deduct(), deduct("r", 10**9)
CONFLICT = deduct("open")
MALFORMED = deduct("m", -1)
ALL_APPLIED = batch(deduct("a"), deduct("b"))
SOME_REJECTED = batch(deduct("a"), deduct("b", 10**9))
SOME_MALFORMED = batch(deduct("a"), deduct("b", -1))
NAMES = ["applied", "rejected", "conflict", "malformed", "batch", "rejected item", "malformed item"]
#: A message, the replies to it under ``problems``, and its dead letters whatever is wanted.
CASES = [
    (APPLIED, 0, 0),
    (REJECTED, 1, 0),
    (CONFLICT, 1, 1),
    (MALFORMED, 1, 1),
    (ALL_APPLIED, 0, 0),
    (SOME_REJECTED, 1, 0),
    (SOME_MALFORMED, 1, 1),
]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def pipeline(engine: Engine, catalog: Catalog) -> Pipeline:
    pipeline = Pipeline(
        Ledger(engine), catalog, Policy(), clock=lambda: NOW, pause=lambda _: None, metrics=Metrics()
    )
    process(pipeline, OPEN)
    return pipeline


def process(pipeline: Pipeline, message: Message, **properties: Any) -> FakeLink:
    link = FakeLink()
    items = pipeline.receive([delivery(message, correlation_id="c", **properties)])
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    assert len(link.acknowledged) == 1
    return link


@pytest.mark.parametrize(("message", "problems", "dead"), CASES, ids=NAMES)
@pytest.mark.parametrize("wanted", ["all", None, "problems", "none"])
def test_sender_gets_the_replies_it_wants_and_operators_every_dead_letter(
    pipeline: Pipeline, message: Message, problems: int, dead: int, wanted: str | None
) -> None:
    link = process(pipeline, message if wanted is None else {**message, "replies": wanted})
    replies = {"problems": problems, "none": 0}.get(wanted or "all", 1)
    assert (len(link.replies), len(link.dead_letters)) == (replies, dead)


@pytest.mark.parametrize("wanted", ["problems", "none"])
def test_outcome_is_stored_whatever_replies_are_wanted(pipeline: Pipeline, wanted: str) -> None:
    assert process(pipeline, {**APPLIED, "replies": wanted}).replies == []
    (reply,) = process(pipeline, APPLIED).replies
    assert (reply["code"], reply["duplicate"]) == ("tokens_deducted", True)


def test_wanted_replies_are_those_of_each_delivery(pipeline: Pipeline) -> None:
    process(pipeline, REJECTED)
    assert process(pipeline, {**REJECTED, "replies": "none"}).replies == []
    (again,) = process(pipeline, {**REJECTED, "replies": "problems"}).replies
    assert (again["code"], again["duplicate"]) == ("insufficient_balance", True)


def test_reply_to_a_batch_with_a_problem_has_all_its_items(pipeline: Pipeline) -> None:
    (reply,) = process(pipeline, {**SOME_REJECTED, "replies": "problems"}).replies
    assert [item["status"] for item in reply["items"]] == ["applied", "rejected"]


def test_notices_go_out_without_replies(pipeline: Pipeline) -> None:
    link = process(pipeline, deduct(tokens=10_000, replies="none"))
    assert {notice.notice.type for notice in link.notices} == {"balance.low", "balance.depleted"}


def test_message_without_a_body_that_can_be_read_gets_its_reply(pipeline: Pipeline) -> None:
    link = FakeLink()
    items = pipeline.receive([delivery(b'{"replies": "none", ', correlation_id="c")])
    pipeline.reply_and_acknowledge(link, items)
    assert [reply["reason"] for reply in link.replies] == ["not_json"]


@pytest.mark.parametrize(("message", "problems", "dead"), CASES, ids=NAMES)
def test_recovered_message_gets_no_reply_but_its_dead_letter(
    pipeline: Pipeline, message: Message, problems: int, dead: int
) -> None:
    link = FakeLink()
    recovered = delivery({**message, "replies": "all"}, correlation_id="c", reply_to="billing.replies")
    items = pipeline.receive([replace(recovered, headers={"x-billing-recovery": 7, "trace": "t"})])
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    assert (len(link.replies), len(link.dead_letters)) == (0, dead)
    for dead_letter in link.dead_letters:
        assert dead_letter.headers["trace"] == "t"


def test_scheduler_gets_no_reply_whatever_it_says(pipeline: Pipeline) -> None:
    settle = {"type": "account.settle", "referenceId": "s", "userId": "u", "replies": "all"}
    assert process(pipeline, settle, app_id=SCHEDULER_APP_ID).replies == []
