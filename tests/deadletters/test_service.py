"""Dead letters in the ledger's database, on both dialects: storing and replaying them loses nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from math import isnan
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from schemas import DeadLetterReason
from tests.deadletters.parts import NOW, failed
from tests.support.fakes import FakeLink
from tests.support.own_user import OWN_USERS
from tests.support.query_plans import recorded_statements
from worker.broker import BulkShare, Delivery
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.replay.message import as_delivered, replay_of
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.encoding import kept, restored
from worker.deadletters.store.filters import DeadLetterFilter
from worker.deadletters.store.transaction import DeadLetterTransaction
from worker.errors import BrokerUnavailableError, NotKeptError
from worker.messages.dead_letters import Failure

DEDUCT = b'{"type": "usage.deduct", "referenceId": "r-1", "userId": "ann", "tokens": 5}'


class DeadQueueLink(FakeLink):
    """Link that consumes dead letters, and records how long it waits for them."""

    def __init__(self, *deliveries: Delivery) -> None:
        super().__init__(*deliveries, consume={"billing.dead": 1_000})
        self.patience: list[float] = []

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        self.patience.append(timeout_s)
        return super().receive(most, timeout_s, bulk)


@pytest.fixture
def service(engine: Engine) -> DeadLetters:
    return DeadLetters(engine, worker_users=OWN_USERS)


def park(service: DeadLetters, *deliveries: Delivery) -> list[StoredDeadLetter]:
    """Drain these deliveries; return all parked dead letters, oldest first."""
    assert service.drain(DeadQueueLink(*deliveries)) == len(deliveries)
    return parked(service)


def parked(service: DeadLetters) -> list[StoredDeadLetter]:
    """Return the parked dead letters, oldest first."""
    return list(service.every_dead_letter(DeadLetterFilter(status=(DeadLetterStatus.PARKED,))))[::-1]


# -- storing and replaying --------------------------------------------------------------------------------

WIRE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, categories=None), max_size=8)
    | st.binary(max_size=8)
    | st.datetimes()
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.binary(max_size=4) | st.sampled_from(["$bytes", "$table"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(WIRE)
def test_header_of_any_value_is_stored_unchanged(value: Any) -> None:
    text = json.dumps(kept(value))
    assert "\\u0000" not in text, "PostgreSQL can't store it"
    assert "NaN" not in text
    back = restored(json.loads(text))
    assert back == value
    assert type(back) is type(value)


def test_header_of_nan_is_stored() -> None:
    assert isnan(restored(json.loads(json.dumps(kept(float("nan"))))))


AWKWARD: dict[Any, Any] = {
    "nul": "a\0b",
    "half": "\ud800",
    "emoji": "💶",
    "bytes": b"\xff\x00",
    "decimal": Decimal("12.50"),
    "time": datetime(2026, 11, 22, 10, 15),  # noqa: DTZ001 - py-amqp's times are naive and UTC
    "infinite": float("-inf"),
    "large": 2**63 - 1,
    "nothing": None,
    "nested": {"list": [1, {"deep": b"\x00"}], "$bytes": "not ours"},
    "n\0ul": 1,
    b"\xff": 2,
    "x-request-id": "the producer's own",
}


def test_properties_and_headers_come_back_on_replay_as_they_were(service: DeadLetters) -> None:
    properties = {
        "message_id": "m\0\ud800",
        "correlation_id": "c",
        "reply_to": "billing.replies.x",
        "content_type": "application/json",
        "priority": 0,
        "timestamp": 1_763_800_000,
    }
    (dead_letter,) = park(service, failed(DEDUCT, properties=properties, headers=AWKWARD))
    replay = replay_of(dead_letter)
    assert {name: value for name, value in replay.properties.items() if value is not None} == properties
    assert replay.headers == {**AWKWARD, "x-billing-sender": ""}
    assert (replay.exchange, replay.routing_key) == ("billing", "usage.deduct")


def test_a_header_that_is_nested_without_end_does_not_hold_up_the_others(service: DeadLetters) -> None:
    deep: Any = "the bottom"
    for _ in range(500):
        deep = [deep]
    assert len(park(service, failed(b"one"), failed(DEDUCT, headers={"deep": deep, "flat": 1}))) == 2
    _, dead_letter = parked(service)
    assert dead_letter.properties["headers"]["flat"] == 1
    assert replay_of(dead_letter).headers["flat"] == 1


@pytest.mark.parametrize("body", [b"", bytes(range(256)) * 4, b"\0", "ü\u2028".encode(), b"x" * 300_000])
def test_the_body_comes_back_byte_by_byte(service: DeadLetters, body: bytes) -> None:
    (dead_letter,) = park(service, failed(body))
    assert dead_letter.body == body
    assert as_delivered(dead_letter).body == body


@pytest.mark.parametrize(
    ("reply_to", "sender", "headers", "kept"),
    [
        ("billing.replies.operator", "mallory", {}, False),
        ("billing.replies.operator.console", "mallory", {}, False),
        ("billing.replies.operator.console", None, {}, False),
        ("answers.operator.x", "mallory", {}, False),
        ("billing.replies.operator.console", "operator", {}, True),
        ("billing.replies.mallory.x", "mallory", {}, True),
        ("billing.replies.operator2", "mallory", {}, True),
        ("billing.replies", None, {}, True),
        ("amq.rabbitmq.reply-to.x.y", None, {}, True),
        ("billing.replies.operator.x", "mallory", {"x-billing-sender": "operator"}, False),
    ],
)
def test_replay_names_no_queue_of_the_operator_for_somebody_else(
    service: DeadLetters, reply_to: str, sender: str | None, headers: dict[str, Any], *, kept: bool
) -> None:
    """On replay the broker vouches for the operator."""
    properties = {"reply_to": reply_to} | ({} if sender is None else {"user_id": sender})
    (dead_letter,) = park(service, failed(DEDUCT, properties=properties, headers=headers))
    replay = replay_of(dead_letter, "operator")
    assert replay.properties.get("reply_to") == (reply_to if kept else None)


def test_sender_of_a_dead_letter_that_the_broker_made_is_not_read_from_its_headers(
    service: DeadLetters,
) -> None:
    death = {"queue": "billing.usage", "reason": "rejected"}
    headers = {"x-death": [death], "x-billing-sender": "operator"}
    properties = {"reply_to": "billing.replies.operator.x", "user_id": "mallory"}
    (dead_letter,) = park(service, replace(failed(DEDUCT), properties=properties, headers=headers))
    assert dead_letter.sender == "mallory"
    assert "reply_to" not in replay_of(dead_letter, "operator").properties


def test_replay_leaves_out_what_the_broker_or_a_worker_added(service: DeadLetters) -> None:
    delivery = failed(DEDUCT, headers={"trace": "t"})
    said = {
        "x-death": [{"count": 1}],
        "x-first-death-queue": "q",
        "x-delivery-count": 4,
        "CC": ["a"],
        "BCC": ["b"],
    }
    brokers = {
        "user_id": "bridge",
        "expiration": "5",
        "cluster_id": "c",
        "delivery_mode": 2,
        "unreadable": b"x",
    }
    (dead_letter,) = park(
        service, replace(delivery, headers={**delivery.headers, **said}, properties=brokers)
    )
    replay = replay_of(dead_letter, "operator")
    assert replay.headers == {"trace": "t", "x-billing-sender": "bridge"}
    assert replay.properties == {"user_id": "operator"}
    assert dead_letter.properties["properties"]["user_id"] == "bridge", "an operator can see it"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-billing-attempts": 2**62, "x-billing-schema-version": 2**40},
        {"x-billing-reason": "a\0b", "x-billing-reference-id": "\0", "x-billing-letter-id": "\0" * 3},
        {"x-billing-first-failed-at": "0001-01-01T00:00:00+14:00"},
        {"x-billing-routing-key": "x" * 100_000},
    ],
)
def test_a_forged_dead_letter_does_not_hold_up_the_others(
    service: DeadLetters, headers: dict[str, Any]
) -> None:
    forged = failed(b"forged")
    dead_letters = park(
        service, failed(b"one"), replace(forged, headers={**forged.headers, **headers}), failed(b"two")
    )
    assert [dead_letter.body for dead_letter in dead_letters] == [b"one", b"forged", b"two"]


def test_no_dead_letter_is_lost_under_the_id_of_another(service: DeadLetters) -> None:
    genuine = failed(b"genuine")
    (first,) = park(service, genuine)
    service.discard([first.number], "done with", "ann")
    forged = replace(failed(b"forged"), headers=genuine.headers)
    (other,) = park(service, forged)
    assert (other.body, service.dead_letter(first.number).status) == (b"forged", "discarded")


# -- the same dead letter again ---------------------------------------------------------------------------


def test_a_dead_letter_that_failed_again_is_one_row_with_what_is_newest(service: DeadLetters) -> None:
    (first,) = park(service, failed(tries=1))
    service.discard([first.number], "never mind", "ann")
    later = NOW + timedelta(hours=1)
    (again,) = park(
        service,
        failed(tries=3, at=later, reason=Failure(DeadLetterReason.UNPROCESSABLE, "a bug", traceback="t")),
    )
    assert (again.number, again.attempts, again.status) == (first.number, 4, "parked")
    assert (again.reason, again.message, again.traceback) == ("unprocessable", "a bug", "t")
    assert (again.first_failed_at, again.last_failed_at) == (NOW, later)


def test_different_dead_letters_are_different_rows(service: DeadLetters) -> None:
    assert len(park(service, failed(b"a"), failed(b"b"), failed(b"a", properties={"message_id": "m"}))) == 3


def test_a_dead_letter_twice_in_one_batch_is_one_row(service: DeadLetters) -> None:
    (dead_letter,) = park(service, failed(at=NOW), failed(at=NOW + timedelta(seconds=1)))
    assert dead_letter.attempts == 2


def test_a_crash_after_the_commit_leaves_one_dead_letter_and_counts_it_once(
    service: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = DeadQueueLink(failed(b"a"), failed(b"b"))

    def lost(_: Sequence[Delivery]) -> None:
        raise BrokerUnavailableError("the connection is lost")

    monkeypatch.setattr(fake, "acknowledge", lost)
    with pytest.raises(BrokerUnavailableError):
        service.drain(fake)
    assert fake.acknowledged == []
    fake.close()
    monkeypatch.undo()
    assert service.drain(fake) == 2
    assert [dead_letter.attempts for dead_letter in parked(service)] == [1, 1]
    assert [len(service.details(dead_letter.number).events) for dead_letter in parked(service)] == [1, 1]


def test_long_history_is_read_only_for_the_failures_in_question(engine: Engine) -> None:
    service = DeadLetters(engine, clock=lambda: NOW + timedelta(days=1), worker_users=OWN_USERS)
    for second in range(20):
        park(service, failed(at=NOW + timedelta(seconds=second)))
    with recorded_statements(engine) as statements:
        (dead_letter,) = park(
            service, failed(at=NOW + timedelta(seconds=19)), failed(at=NOW + timedelta(hours=1))
        )
    assert dead_letter.attempts == 21
    (asked,) = [one for one in statements if "dead_letter_events.at" in one[0] and "SELECT" in one[0]]
    with engine.connect() as connection:
        assert len(connection.exec_driver_sql(*asked).all()) == 2, "of 21"


def test_uncommitted_dead_letters_are_not_acknowledged(
    service: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = DeadQueueLink(failed(b"a"), failed(b"b"))

    def full(_transaction: DeadLetterTransaction) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterTransaction, "flush", full)
        with pytest.raises(NotKeptError, match="OSError"):
            service.drain(fake)
    assert fake.acknowledged == []
    assert parked(service) == []
    fake.close()
    assert service.drain(fake) == 2


def test_dead_letters_that_are_known_to_wait_are_waited_for(service: DeadLetters) -> None:
    fake = DeadQueueLink(failed(b"a"), failed(b"b"))
    service.drain(fake, expected=2, wait_s=0.125)
    first, last = fake.patience
    assert first > 1
    assert last == 0.125
