"""Notices on RabbitMQ: a bound queue gets those of low balances and expiring credit, at least once."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from schemas import BonusCredit, Notice, OpenAccount
from tests.support.apply_commands import applied
from tests.support.expected_state import nothing_is_left
from tests.support.fault_injection import CrashingWorkers
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.catalog import Catalog
from worker.deadletters.store.filters import DeadLetterFilter

OPEN = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "free"}
NEARLY_ALL = {"type": "usage.deduct", "referenceId": "much", "userId": "ann", "tokens": 9_500}
THE_REST = {"type": "usage.deduct", "referenceId": "rest", "userId": "ann", "tokens": 500}


@pytest.fixture
def notice_queue(rabbit: RabbitClient) -> str:
    """A queue that receives every notice."""
    return bound_queue(rabbit)


def bound_queue(rabbit: RabbitClient, key: str = "#", arguments: dict[str, Any] | None = None) -> str:
    queue = f"test.notices.{uuid4().hex}"
    rabbit.channel.queue_declare(queue, exclusive=True, arguments=arguments)
    rabbit.channel.queue_bind(queue, BILLING.events, key)
    return queue


def received_notices(rabbit: RabbitClient, queue: str, count: int) -> list[Notice]:
    return [Notice.model_validate_json(body) for _, body in rabbit.take(queue, count)]


def counted(application: Application, outcome: str) -> int:
    labels = {"type": "balance.low", "outcome": outcome}
    value = application.metrics.registry.get_sample_value("billing_worker_notices_total", labels)
    return int(value or 0)


def test_queue_receives_the_notices_it_is_bound_for(
    application: Application, rabbit: RabbitClient, notice_queue: str
) -> None:
    depleted_only = bound_queue(rabbit, "balance.depleted")
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    bonus = {"type": "credit.bonus", "referenceId": "b", "userId": "ann", "tokens": 7_000}
    began = datetime.now(UTC)
    with running(application):
        rabbit.request(OPEN)
        rabbit.request(NEARLY_ALL)
        rabbit.request(THE_REST)
        rabbit.request({**bonus, "expiresAt": expires_at.isoformat()})
        taken = rabbit.take(notice_queue, 3)
    low, depleted, expiring = (Notice.model_validate_json(body) for _, body in taken)
    assert (low.type, low.user_id, low.reference_id, low.available, low.mark) == (
        "balance.low",
        "ann",
        "much",
        500,
        1_000,
    )
    assert (depleted.type, depleted.reference_id, depleted.available) == ("balance.depleted", "rest", 0)
    assert (expiring.type, expiring.reference_id) == ("credit.expiring", "b")
    assert (expiring.tokens, expiring.source, expiring.expires_at) == (7_000, "bonus", expires_at)
    assert began <= low.recorded_at <= depleted.recorded_at <= datetime.now(UTC)
    for notice, (properties, _) in zip((low, depleted, expiring), taken, strict=True):
        assert (properties.message_id, properties.type) == (notice.id, notice.type)
        assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert len({low.id, depleted.id, expiring.id}) == 3
    assert [notice.id for notice in received_notices(rabbit, depleted_only, 1)] == [depleted.id]


def test_notice_without_listener_is_dropped(
    application: Application, rabbit: RabbitClient, caplog: pytest.LogCaptureFixture
) -> None:
    with running(application):
        rabbit.request(OPEN)
        rabbit.request(NEARLY_ALL)
        nothing_is_left(rabbit)
        eventually(lambda: counted(application, "returned") == 1, what="it has come back")
    assert rabbit.depth(BILLING.dead.name) == 0
    assert [record for record in caplog.records if record.levelname not in {"DEBUG", "INFO"}] == []


def test_due_notice_is_sent_when_the_command_of_the_scheduler_is_applied(
    application: Application, catalog: Catalog, rabbit: RabbitClient, notice_queue: str
) -> None:
    now = datetime.now(UTC)
    applied(
        application.engine,
        catalog,
        OpenAccount(reference_id="open", user_id="ann", tier="pro"),
        BonusCredit(reference_id="b", user_id="ann", tokens=9, expires_at=now + timedelta(days=6, hours=23)),
        now=now - timedelta(days=2),
    )
    assert application.scheduler().tick(now) == 1
    with running(application):
        (notice,) = received_notices(rabbit, notice_queue, 1)
    assert (notice.type, notice.lot, notice.tokens) == ("credit.expiring", 2, 9)
    assert notice.reference_id.startswith("due:")
    assert application.scheduler().tick(now) == 0


@pytest.mark.parametrize(
    ("crash_point", "nth", "times"),
    [("committed", 1, {1}), ("replied", 2, {1, 2}), ("confirmed", 1, {2})],
    ids=["before anything is sent", "before the notice is confirmed", "before the acknowledgement"],
)
def test_crash_loses_no_notice_and_keeps_its_id(
    application: Application,
    catalog: Catalog,
    rabbit: RabbitClient,
    notice_queue: str,
    crash_point: str,
    nth: int,
    times: set[int],
) -> None:
    applied(application.engine, catalog, OpenAccount(reference_id="open", user_id="ann", tier="free"))
    rabbit.publish(NEARLY_ALL)
    with CrashingWorkers(application.settings) as crashing_workers:
        process = crashing_workers.start_at(crash_point, nth, batch_size=10)
        process.join(PATIENCE_S)
        assert process.exitcode == -9
    with running(application):
        eventually(lambda: rabbit.depth(notice_queue) >= min(times), what="the notice")
        nothing_is_left(rabbit)
    notices = received_notices(rabbit, notice_queue, rabbit.depth(notice_queue))
    assert len(notices) in times
    assert {(notice.type, notice.id) for notice in notices} == {("balance.low", notices[0].id)}


def test_notice_that_a_full_queue_refuses_becomes_a_dead_letter(
    application: Application, catalog: Catalog, rabbit: RabbitClient, notice_queue: str
) -> None:
    full = bound_queue(rabbit, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    users = [f"u{n}" for n in range(5)]
    applied(
        application.engine,
        catalog,
        *(OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in users),
    )
    with running(application):
        replies = rabbit.replies(
            rabbit.publish_all({**NEARLY_ALL, "referenceId": f"much-{u}", "userId": u} for u in users)
        )
        nothing_is_left(rabbit)
    assert {reply["code"] for some in replies.values() for reply in some} == {"tokens_deducted"}
    assert len({notice.id for notice in received_notices(rabbit, notice_queue, 5)}) == 5, (
        "the queue with room has them all"
    )
    refused = counted(application, "refused")
    assert refused
    kept = received_notices(rabbit, full, rabbit.depth(full))
    service = application.service()
    link = application.link(consume=[BILLING.dead.name])
    assert service.drain(link, expected=refused) == refused
    link.close()
    dead_letters = list(service.every_dead_letter(DeadLetterFilter(code="notice_refused")))
    assert {dead_letter.user_id for dead_letter in dead_letters} | {notice.user_id for notice in kept} == set(
        users
    )
    for dead_letter in dead_letters:
        replay = service.create_replay([dead_letter.number], "there is room again", "ann")
        ended = application.replayer().run(replay.number, "ann", stop=FlagStop())
        assert ended.counts["delivered"] == 1, "only the broker knows where a notice went"
        assert service.dead_letter(dead_letter.number).status == "resolved"
        kept += received_notices(rabbit, full, 1)
    assert {notice.user_id for notice in kept} == set(users)


def test_worker_waits_for_a_missing_event_exchange_and_replies_once(
    application: Application, rabbit: RabbitClient, caplog: pytest.LogCaptureFixture
) -> None:
    with running(application):
        rabbit.request(OPEN)
        rabbit.channel.exchange_delete(BILLING.events)
        correlation_id = rabbit.publish(NEARLY_ALL)
        eventually(lambda: "topology declare" in caplog.text, what="it says what to run")
        link = application.link()
        link.declare(BILLING)
        link.close()
        eventually(lambda: counted(application, "returned") == 1, what="the notice has gone out")
        nothing_is_left(rabbit)
    assert [reply["code"] for reply in rabbit.replies({correlation_id})[correlation_id]] == [
        "tokens_deducted"
    ]
    assert rabbit.depth(rabbit.reply_queue) == 0
