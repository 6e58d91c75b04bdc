"""Notices on RabbitMQ: a bound queue gets those of low balances and expiring credit, at least once."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from schemas import BonusCredit, Notice, OpenAccount
from tests.support.books import applied
from tests.support.saboteur import Saboteurs
from tests.support.truth import nothing_is_left
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.witness import Witness
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.catalog import Catalog
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter

OPEN = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "free"}
NEARLY_ALL = {"type": "usage.deduct", "referenceId": "much", "userId": "ann", "tokens": 9_500}
THE_REST = {"type": "usage.deduct", "referenceId": "rest", "userId": "ann", "tokens": 500}


@pytest.fixture
def notice_queue(witness: Witness) -> str:
    """A queue that receives every notice."""
    return bound_queue(witness)


def bound_queue(witness: Witness, key: str = "#", arguments: dict[str, Any] | None = None) -> str:
    queue = f"test.notices.{uuid4().hex}"
    witness.channel.queue_declare(queue, exclusive=True, arguments=arguments)
    witness.channel.queue_bind(queue, BILLING.events, key)
    return queue


def received_notices(witness: Witness, queue: str, count: int) -> list[Notice]:
    return [Notice.model_validate_json(body) for _, body in witness.take(queue, count)]


def counted(application: Application, outcome: str) -> int:
    labels = {"type": "balance.low", "outcome": outcome}
    value = application.metrics.registry.get_sample_value("billing_worker_notices_total", labels)
    return int(value or 0)


def test_queue_receives_the_notices_it_is_bound_for(
    application: Application, witness: Witness, notice_queue: str
) -> None:
    depleted_only = bound_queue(witness, "balance.depleted")
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    bonus = {"type": "credit.bonus", "referenceId": "b", "userId": "ann", "tokens": 7_000}
    began = datetime.now(UTC)
    with running(application):
        witness.request(OPEN)
        witness.request(NEARLY_ALL)
        witness.request(THE_REST)
        witness.request({**bonus, "expiresAt": expires_at.isoformat()})
        taken = witness.take(notice_queue, 3)
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
    assert [notice.id for notice in received_notices(witness, depleted_only, 1)] == [depleted.id]


def test_notice_without_listener_is_dropped(
    application: Application, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    with running(application):
        witness.request(OPEN)
        witness.request(NEARLY_ALL)
        nothing_is_left(witness)
        eventually(lambda: counted(application, "returned") == 1, what="it has come back")
    assert witness.depth(BILLING.dead.name) == 0
    assert [record for record in caplog.records if record.levelname not in {"DEBUG", "INFO"}] == []


def test_due_notice_is_sent_when_the_command_of_the_scheduler_is_applied(
    application: Application, catalog: Catalog, witness: Witness, notice_queue: str
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
        (notice,) = received_notices(witness, notice_queue, 1)
    assert (notice.type, notice.lot, notice.tokens) == ("credit.expiring", 2, 9)
    assert notice.reference_id.startswith("due:")
    assert application.scheduler().tick(now) == 0


@pytest.mark.parametrize(
    ("arrow", "nth", "times"),
    [("committed", 1, {1}), ("replied", 2, {1, 2}), ("confirmed", 1, {2})],
    ids=["before anything is sent", "before the notice is confirmed", "before the acknowledgement"],
)
def test_crash_loses_no_notice_and_keeps_its_id(
    application: Application,
    catalog: Catalog,
    witness: Witness,
    notice_queue: str,
    arrow: str,
    nth: int,
    times: set[int],
) -> None:
    applied(application.engine, catalog, OpenAccount(reference_id="open", user_id="ann", tier="free"))
    witness.publish(NEARLY_ALL)
    with Saboteurs(application.settings) as saboteurs:
        process = saboteurs.start_at(arrow, nth, batch_size=10)
        process.join(PATIENCE_S)
        assert process.exitcode == -9
    with running(application):
        eventually(lambda: witness.depth(notice_queue) >= min(times), what="the notice")
        nothing_is_left(witness)
    notices = received_notices(witness, notice_queue, witness.depth(notice_queue))
    assert len(notices) in times
    assert {(notice.type, notice.id) for notice in notices} == {("balance.low", notices[0].id)}


def test_notice_that_a_full_queue_refuses_becomes_a_dead_letter(
    application: Application, catalog: Catalog, witness: Witness, notice_queue: str
) -> None:
    full = bound_queue(witness, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    users = [f"u{n}" for n in range(5)]
    applied(
        application.engine,
        catalog,
        *(OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in users),
    )
    with running(application):
        replies = witness.replies(
            witness.publish_all({**NEARLY_ALL, "referenceId": f"much-{u}", "userId": u} for u in users)
        )
        nothing_is_left(witness)
    assert {reply["code"] for some in replies.values() for reply in some} == {"tokens_deducted"}
    assert len({notice.id for notice in received_notices(witness, notice_queue, 5)}) == 5, (
        "the queue with room has them all"
    )
    refused = counted(application, "refused")
    assert refused
    kept = received_notices(witness, full, witness.depth(full))
    service = DeadLetters(application.engine)
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
        kept += received_notices(witness, full, 1)
    assert {notice.user_id for notice in kept} == set(users)


def test_worker_waits_for_a_missing_event_exchange_and_replies_once(
    application: Application, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    with running(application):
        witness.request(OPEN)
        witness.channel.exchange_delete(BILLING.events)
        correlation_id = witness.publish(NEARLY_ALL)
        eventually(lambda: "topology declare" in caplog.text, what="it says what to run")
        link = application.link()
        link.declare(BILLING)
        link.close()
        eventually(lambda: counted(application, "returned") == 1, what="the notice has gone out")
        nothing_is_left(witness)
    assert [reply["code"] for reply in witness.replies({correlation_id})[correlation_id]] == [
        "tokens_deducted"
    ]
    assert witness.depth(witness.reply_queue) == 0
