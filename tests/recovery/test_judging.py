"""Judgement of messages of the journal: by their first sender, and the rules of today."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import routing_key
from schemas.dead_letter import RECOVERY_HEADER, RECOVERY_SINCE_HEADER, SENDER_HEADER
from worker.broker import BILLING, Delivery
from worker.broker.journal import JournalMessage
from worker.deadletters.models import DeadLetterStatus
from worker.messages.dead_letters import Failure, dead_letter_id
from worker.messages.policy import Policy
from worker.recovery.judging import Handling, Judge, JudgedMessage

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
DEDUCT = {"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 1}
RULES = {"usage.*": ["app", "ops"], "payment.*": ["ops"]}


def judged(
    message: Mapping[str, Any] | bytes = DEDUCT,
    *,
    offset: int = 10,
    first: int = 0,
    policy: Policy | None = None,
    key: str = "usage.deduct",
    exchange: str = "billing",
    headers: Mapping[str, Any] | None = None,
    **properties: Any,
) -> JudgedMessage:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    kept = {"x-stream-offset": offset, **(headers or {})}
    delivery = Delivery(body, "billing.journal", exchange, key, 7, properties=properties, headers=kept)
    judge = Judge(
        policy or Policy(senders=RULES, worker_users=frozenset({"ops"})),
        since=NOW,
        first=first,
        sent_as="ops",
    )
    (found,) = judge.judged([JournalMessage(offset, delivery)], NOW)
    return found


def test_command_is_published_by_the_way_it_came_with_its_first_sender() -> None:
    found = judged(
        user_id="app",
        message_id="m",
        reply_to="billing.replies.app",
        expiration="5",
        app_id="uploads",
        headers={"trace": "t", "x-billing-forged": "1"},
    )
    assert (found.handling, found.sender) == (Handling.COMMAND, "app")
    outgoing = found.outgoing
    assert (outgoing.exchange, outgoing.routing_key) == ("billing", "usage.deduct")
    assert outgoing.properties == {"message_id": "m", "app_id": "uploads", "user_id": "ops"}
    assert outgoing.headers == {
        "trace": "t",
        RECOVERY_HEADER: 10,
        RECOVERY_SINCE_HEADER: SECONDS,
        SENDER_HEADER: "app",
    }


@pytest.mark.parametrize("sender", ["other", None])
def test_message_whose_sender_has_no_right_is_refused(sender: str | None) -> None:
    found = judged(user_id=sender)
    assert (found.handling, found.is_published) == (Handling.REFUSED, False)
    assert isinstance(found.found, Failure)
    assert found.found.code == "wrong_sender"


def test_message_that_the_recovering_user_may_not_send_is_refused() -> None:
    policy = Policy(senders={"usage.*": ["app"]}, worker_users=frozenset({"ops"}))
    for message in (DEDUCT, b"oops"):
        assert judged(message, user_id="app", policy=policy).handling is Handling.REFUSED
    found = judged(user_id="app", policy=policy).found
    assert isinstance(found, Failure)
    assert "'ops' may not send usage.deduct" in found.message


def test_message_under_the_key_of_another_type_is_refused() -> None:
    assert judged(DEDUCT, key="payment.succeeded", user_id="ops").handling is Handling.REFUSED


def test_malformed_message_is_a_dead_letter_again_where_its_sender_may_send_the_type() -> None:
    assert judged(b"oops", user_id="app").handling is Handling.DEAD_LETTER
    assert judged(b"oops", user_id="other").handling is Handling.REFUSED
    assert judged(b"oops", user_id="app", key="payment.succeeded").handling is Handling.REFUSED


@pytest.mark.parametrize(
    "past",
    [{"exchange": "mine"}, {"headers": {"x-first-death-queue": "mine"}}],
    ids=["bound", "dead-lettered"],
)
@pytest.mark.parametrize("body", [DEDUCT, b"oops"], ids=["command", "malformed"])
def test_message_that_walked_past_the_exchanges_is_refused(
    past: dict[str, Any], body: dict[str, Any] | bytes
) -> None:
    found = judged(body, user_id="app", **past)
    assert found.handling is Handling.REFUSED
    assert found.outgoing.exchange == "billing"


def test_message_that_somebody_wrote_to_the_stream_itself_is_refused() -> None:
    for message in (DEDUCT, b"oops"):
        assert judged(message, exchange="", key="billing.journal", user_id="app").handling is Handling.REFUSED


def test_bulk_message_is_judged_as_one_of_the_bulk_lane() -> None:
    found = judged(user_id="app", exchange="billing.bulk")
    assert (found.delivery.queue, found.outgoing.exchange) == ("billing.bulk", "billing.bulk")


@pytest.mark.parametrize(
    ("first", "publisher", "handling"),
    [
        (0, "ops", Handling.COPY),
        (4, "ops", Handling.COMMAND),  # its original is not read
        (0, "app", Handling.REFUSED),  # a producer names a first sender
    ],
)
def test_copy_is_skipped_where_its_original_is_read_as_well(
    first: int, publisher: str, handling: Handling
) -> None:
    found = judged(
        first=first,
        headers={RECOVERY_HEADER: 3, RECOVERY_SINCE_HEADER: 5, SENDER_HEADER: "app"},
        user_id=publisher,
    )
    assert found.handling is handling
    is_ours = publisher == "ops"
    kept = [found.outgoing.headers[name] for name in (RECOVERY_HEADER, RECOVERY_SINCE_HEADER)]
    assert kept == ([3, 5] if is_ours else [10, SECONDS])
    assert found.outgoing.headers[SENDER_HEADER] == "app"


def test_first_sender_is_believed_of_our_own_users_alone() -> None:
    named = {SENDER_HEADER: "app"}
    assert judged(headers=named, user_id="ops").sender == "app"
    assert judged(headers=named, user_id="other").sender == "other"
    assert judged(headers={SENDER_HEADER: ""}, user_id="ops").sender is None


def test_actions_of_operators_are_recognized() -> None:
    assert judged(app_id="billing-worker adjust", user_id="ops").operators_action == "adjust"
    replay = {"x-billing-replay": 3, "x-billing-replay-letter": 7}
    assert judged(headers=replay, user_id="ops").operators_action == "replay 3 of dead letter 7"
    assert judged(app_id="app", user_id="app").operators_action is None


_PARKED, _RESOLVED, _DISCARDED = map(DeadLetterStatus, ("parked", "resolved", "discarded"))


def test_command_is_skipped_where_operators_have_dealt_with_its_dead_letter() -> None:
    assert judged(user_id="app").as_known(_RESOLVED).handling is Handling.KNOWN
    discarded = judged(user_id="app").as_known(_DISCARDED)
    assert (discarded.handling, discarded.is_discarded) == (Handling.KNOWN, True)
    replay = judged(user_id="ops", headers={"x-billing-replay": 3})
    assert replay.as_known(_DISCARDED).handling is Handling.COMMAND
    assert judged(user_id="other").as_known(_DISCARDED).handling is Handling.REFUSED


@pytest.mark.parametrize("status", [None, _PARKED])
def test_command_is_published_where_its_bytes_may_have_come_again(status: DeadLetterStatus | None) -> None:
    assert judged(user_id="app").as_known(status).handling is Handling.COMMAND


def test_malformed_message_is_skipped_where_its_dead_letter_is_kept() -> None:
    assert judged(b"oops", user_id="app").as_known(_PARKED).handling is Handling.KNOWN
    assert judged(b"oops", user_id="app").as_known(None).handling is Handling.DEAD_LETTER


@pytest.mark.parametrize(
    ("partitions", "key"), [(0, "usage.deduct"), (16, routing_key("usage.deduct", "ann", 16))]
)
def test_recovered_message_goes_to_the_partition_of_today(partitions: int, key: str) -> None:
    policy = Policy(senders=RULES, worker_users=frozenset({"ops"}), topology=BILLING.partitioned(partitions))
    found = judged(key="usage.deduct.63", user_id="app", policy=policy)
    assert (found.handling, found.outgoing.routing_key) == (Handling.COMMAND, key)


def test_dead_letter_of_a_partition_is_known_by_its_lane() -> None:
    found = judged(user_id="app", message_id="m")
    dead = replace(found.delivery, queue="billing.usage.07", routing_key="usage.deduct.07")
    assert dead_letter_id(dead) == found.dead_letter_id
