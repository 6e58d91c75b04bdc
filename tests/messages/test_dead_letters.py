"""From a delivery to the dead letter with its reason, and back from the dead letter's headers."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from amqp.serialization import dumps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import DeadLetter, DeadLetterReason
from tests.support.own_user import OWN_POLICY, OWN_USER, OWN_USERS
from worker.broker import Delivery, Outgoing
from worker.messages.dead_letters import (
    EPOCH,
    UNKNOWN_ORIGIN,
    Failure,
    dead_letter_for,
    dead_letter_id,
    identities_in,
    read_dead_letter,
)

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
FRAME_MAX = 131_072
REASON = Failure(DeadLetterReason.NOT_JSON, "The body is not JSON.")


def delivery(
    body: bytes = b"oops",
    *,
    queue: str = "billing.usage",
    exchange: str = "billing",
    routing_key: str = "usage.deduct",
    properties: Mapping[str, Any] | None = None,
    headers: Mapping[Any, Any] | None = None,
    unreadable: bytes | None = None,
    redelivered: bool = False,
) -> Delivery:
    return Delivery(
        body=body,
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
        tag=1,
        redelivered=redelivered,
        properties=properties or {},
        headers=headers or {},
        unreadable=unreadable,
    )


def dead_letter_of(
    delivered: Delivery | None = None, reason: Failure = REASON, *, tries: int = 1, now: datetime = NOW
) -> Outgoing:
    given_ = delivery() if delivered is None else delivered
    return dead_letter_for(given_, reason, OWN_POLICY, tries=tries, now=now)


def arrived(sent: Outgoing) -> Delivery:
    """Return the dead letter as it comes out of its queue."""
    return delivery(
        sent.body,
        queue=sent.routing_key,
        exchange=sent.exchange,
        routing_key=sent.routing_key,
        properties=sent.properties,
        headers=sent.headers,
    )


# -- identity ---------------------------------------------------------------------------------------------


def test_the_same_message_has_the_same_dead_letter() -> None:
    first = delivery(b"x", properties={"message_id": "m"})
    again = Delivery(b"x", "billing.usage", "", "else", 9, redelivered=True, properties={"message_id": "m"})
    assert dead_letter_id(first) == dead_letter_id(again)


@pytest.mark.parametrize(
    "other",
    [
        delivery(b"y", properties={"message_id": "m"}),
        delivery(b"x", properties={"message_id": "n"}),
        delivery(b"x"),
        delivery(b"x", properties={"message_id": "m"}, queue="billing.payments"),
        delivery(b"", properties={"message_id": "m\0x"}),
    ],
)
def test_another_message_has_another_dead_letter(other: Delivery) -> None:
    assert dead_letter_id(delivery(b"x", properties={"message_id": "m"})) != dead_letter_id(other)


def test_a_dead_letter_keeps_its_id_over_versions() -> None:
    assert (
        dead_letter_id(delivery(b"x", properties={"message_id": "m"})) == "aa1fbfc291ad5799a0e3f4c8b6502a4a"
    )


# -- headers ----------------------------------------------------------------------------------------------


def test_dead_letter_has_reason_origin_and_time() -> None:
    reason = Failure(
        DeadLetterReason.INVALID_FIELD,
        "tokens: too many",
        "tokens",
        "Traceback",
        "usage.deduct",
        "r-1",
        "ann",
    )
    read = DeadLetter.from_headers(
        dead_letter_of(delivery(headers={"x-delivery-count": 2}, redelivered=True), reason, tries=3).headers
    )
    assert (read.reason, read.message, read.field, read.traceback) == (
        "invalid_field",
        "tokens: too many",
        "tokens",
        "Traceback",
    )
    assert (read.queue, read.exchange, read.routing_key) == ("billing.usage", "billing", "usage.deduct")
    assert (read.type, read.reference_id, read.user_id) == ("usage.deduct", "r-1", "ann")
    assert read.attempts == 5, "the broker's deliveries before, and this one's tries"
    assert read.first_failed_at == read.last_failed_at == NOW


def test_absent_value_is_no_header() -> None:
    assert "x-billing-traceback" not in dead_letter_of().headers


def test_dead_letter_keeps_body_and_properties() -> None:
    properties = {
        "message_id": "m",
        "correlation_id": "c",
        "reply_to": "billing.replies.x",
        "priority": 0,
        "timestamp": 5,
    }
    sent = dead_letter_of(delivery(bytes(range(256)), properties=properties, headers={"trace": "t"}))
    assert sent.body == bytes(range(256))
    assert sent.properties == {**properties, "user_id": OWN_USER}
    assert sent.headers["trace"] == "t"
    assert (sent.exchange, sent.routing_key) == ("", "billing.dead")


def test_sender_and_expiration_are_kept_as_headers_and_not_as_properties() -> None:
    sent = dead_letter_of(
        delivery(properties={"user_id": "bridge", "expiration": "60000", "cluster_id": "c"})
    )
    assert sent.properties == {"user_id": OWN_USER}
    assert sent.headers["x-billing-sender"] == sent.headers["x-billing-sent-by"] == "bridge"
    assert sent.headers["x-billing-expiration"] == "60000"


def test_properties_that_nobody_can_parse_are_kept_as_they_came() -> None:
    sent = dead_letter_of(delivery(properties={"unreadable": b"\x01\xff"}, unreadable=b"\x01\xff"))
    assert sent.properties == {"user_id": OWN_USER}
    assert sent.headers["x-billing-unreadable-properties"] == "01ff"


RESERVED = {
    "x-death": [{"count": 1}],
    "x-first-death-reason": "rejected",
    "x-last-death-queue": "q",
    "x-delivery-count": 3,
    "x-acquired-count": 3,
    "CC": ["billing.payments"],
    "BCC": ["billing.payments"],
    "cc": ["billing.payments"],
    "x-billing-reason": "forged",
    "x-billing-sender": "forged",
    "x-billing-replay": 1,
}


def test_headers_of_the_broker_are_omitted_and_named() -> None:
    sent = dead_letter_of(delivery(headers=RESERVED | {"x-trace": "t", "x-deathly": "hallows"}))
    read = DeadLetter.from_headers(sent.headers)
    assert read.reason == "not_json"
    assert read.headers_omitted is not None
    assert sorted(read.headers_omitted.split(", ")) == sorted(RESERVED)
    assert (sent.headers["x-trace"], sent.headers["x-deathly"]) == ("t", "hallows")
    assert not (RESERVED.keys() - {"x-billing-reason", "x-billing-sender"}) & sent.headers.keys()
    assert sent.headers["x-billing-sender"] == "", "an anonymous user sent it"


def test_headers_that_cannot_be_written_are_named() -> None:
    headers = {"huge": 2**70, "odd": object(), "fine": 1, b"\xff": "bytes are fine", "n" * 256: "long name"}
    sent = dead_letter_of(delivery(headers=headers))
    assert sent.headers["x-billing-headers-omitted"] == f"huge, odd, {'n' * 256}"
    assert read_in(arrived(sent)).reason == "not_json"


# -- sizes ------------------------------------------------------------------------------------------------


def test_long_traceback_keeps_its_end_and_a_long_message_its_beginning() -> None:
    reason = Failure(
        DeadLetterReason.UNPROCESSABLE, "m" * 5_000, traceback="a" * 9_000 + "the fault", field="f" * 5_000
    )
    read = DeadLetter.from_headers(dead_letter_of(reason=reason).headers)
    assert read.traceback is not None
    assert (len(read.traceback), read.traceback[-9:]) == (8_000, "the fault")
    assert read.message == "m" * 1_000
    assert read.field == "f" * 1_000


@pytest.mark.parametrize("char", ["a", "ü", "💶", "\ud800"])
def test_a_dead_letter_fits_a_frame_whatever_is_in_it(char: str) -> None:
    headers = {f"h-{number}": char * 1_000 for number in range(120)} | {"big": char * 120_000}
    reason = Failure(
        DeadLetterReason.UNPROCESSABLE,
        char * 100_000,
        char * 100_000,
        char * 100_000,
        "usage.deduct",
        "💶" * 200,
        "💶" * 200,
    )
    properties = dict.fromkeys(("message_id", "correlation_id", "reply_to", "app_id", "user_id"), "p" * 255)
    sent = dead_letter_of(delivery(headers=headers, properties=properties), reason)
    size = len(dumps("F", (sent.headers,))) + sum(len(value) + 1 for value in sent.properties.values())
    assert size < FRAME_MAX - 1_000
    read = DeadLetter.from_headers(sent.headers)
    assert read.headers_omitted is not None
    assert "big" in read.headers_omitted


def test_a_header_that_does_not_fit_leaves_room_for_those_that_do() -> None:
    sent = dead_letter_of(delivery(headers={"big": "x" * 120_000, "small": "y"}))
    assert sent.headers["small"] == "y"
    assert sent.headers["x-billing-headers-omitted"] == "big"


def test_halves_of_surrogate_pairs_are_spelled_out() -> None:
    """AMQP allows them in a routing key; a dead letter that can't be written would stop the worker."""
    sent = dead_letter_of(
        delivery(routing_key="usage.\ud800", exchange="e\udfff"),
        Failure(DeadLetterReason.NOT_JSON, "m\ud800", "f\ud800"),
    )
    read = DeadLetter.from_headers(sent.headers)
    assert (read.routing_key, read.exchange) == (r"usage.\ud800", r"e\udfff")
    assert (read.message, read.field) == (r"m\ud800", r"f\ud800")


# -- back from the queue ----------------------------------------------------------------------------------


def test_a_dead_letter_comes_back_as_it_was_written() -> None:
    reason = Failure(DeadLetterReason.UNPROCESSABLE, "m", traceback="t", reference_id="r", user_id="u")
    delivered = delivery(b'{"referenceId": "r", "userId": "u"}')
    sent = dead_letter_of(delivered, reason, tries=3, now=NOW + timedelta(microseconds=1))
    assert read_in(arrived(sent)) == DeadLetter.from_headers(sent.headers)


DEATH = {
    "reason": "rejected",
    "queue": "billing.usage",
    "exchange": "billing",
    "routing-keys": ["usage.deduct"],
    "count": 2,
    "time": datetime(2026, 11, 22, 10, 0),  # noqa: DTZ001 - py-amqp's times are naive and UTC
}


def read_in(dead: Delivery) -> DeadLetter:
    return read_dead_letter(dead, OWN_USERS).dead_letter


def in_dead_queue(
    body: bytes = b"oops", headers: Mapping[Any, Any] | None = None, **properties: Any
) -> Delivery:
    """Return a message that somebody has put into the dead-letter queue."""
    return delivery(
        body,
        queue="billing.dead",
        exchange="",
        routing_key="billing.dead",
        properties=properties,
        headers=headers,
    )


@pytest.mark.parametrize(
    ("user", "headers", "is_vouched"),
    [
        (OWN_USER, {}, True),
        ("mallory", {}, False),
        (None, {}, False),
        (OWN_USER, {"x-death": [DEATH]}, False),
        (OWN_USER, {"x-death": None}, False),
        (OWN_USER, {"x-billing-reason": 5}, False),
    ],
    ids=["ours", "another user", "nobody", "out of a queue", "half out of a queue", "half a dead letter"],
)
def test_headers_are_believed_where_a_worker_user_published_them(
    user: str | None, headers: dict[str, Any], *, is_vouched: bool
) -> None:
    """Without a worker nothing that would steer an operator is taken from them."""
    sent = dead_letter_of(delivery(b"x", properties={"user_id": "app"}), tries=7)
    read = read_dead_letter(in_dead_queue(b"x", {**sent.headers, **headers}, user_id=user), OWN_USERS)
    assert read.is_vouched is is_vouched
    assert read.sender == ("app" if user == OWN_USER else user)
    kept = read.dead_letter
    if is_vouched:
        assert (kept.reason, kept.queue, kept.attempts) == ("not_json", "billing.usage", 7)
    else:
        assert {name: getattr(kept, name) for name in UNKNOWN_ORIGIN} == UNKNOWN_ORIGIN
        assert kept.message.startswith("Of unknown origin: no worker published it.")
        assert (kept.traceback, kept.field) == (None, None)


def test_reason_in_the_death_header_is_shown_as_its_word() -> None:
    body = b'{"type": "usage.deduct", "referenceId": "r-1", "userId": "ann", "tokens": 5}'
    read = read_in(in_dead_queue(body, {"x-death": [DEATH, DEATH | {"reason": "expired"}]}))
    assert (read.reason, read.last_failed_at) == ("rejected", datetime(2026, 11, 22, 10, 0, tzinfo=UTC))
    assert read.message == (
        "Of unknown origin: no worker published it. "
        "Its header x-death says that the broker took it from 'billing.usage': rejected."
    )
    assert (read.type, read.reference_id, read.user_id) == ("usage.deduct", "r-1", "ann")


@pytest.mark.parametrize("reason", ["unprocessable", "notice_refused", "x" * 500, 5, None])
def test_reason_in_the_death_header_is_one_of_the_brokers(reason: Any) -> None:
    assert read_in(in_dead_queue(headers={"x-death": [DEATH | {"reason": reason}]})).reason == "unknown"


def test_dead_letter_of_unknown_origin_never_is_one_of_a_worker() -> None:
    """Or the same bytes with a forged header would change what a worker has said."""
    ours = read_in(arrived(dead_letter_of(delivery(b"x", properties={"message_id": "m"}))))
    for headers in ({}, {"x-death": [DEATH]}, dead_letter_of(delivery(b"x")).headers):
        assert read_in(in_dead_queue(b"x", headers, message_id="m")).letter_id != ours.letter_id


@pytest.mark.parametrize("death", [None, DEATH], ids=["another queue", "the broker's"])
@pytest.mark.parametrize("user", [OWN_USER, "app"])
def test_replay_is_known_by_headers_of_a_worker_user(user: str, death: dict[str, Any] | None) -> None:
    headers = {"x-billing-replay": 3, "x-billing-replay-letter": 7, "x-billing-sender": "app"}
    read = read_in(
        in_dead_queue(headers=headers | ({} if death is None else {"x-death": [death]}), user_id=user)
    )
    assert (read.replay, read.replay_letter) == ((3, 7) if user == OWN_USER else (None, None))


def test_id_comes_from_the_bytes_and_not_from_the_header() -> None:
    sent = dead_letter_of(delivery(b"another"))
    read = read_in(in_dead_queue(b"x", sent.headers, user_id=OWN_USER))
    assert read.letter_id == dead_letter_id(delivery(b"x"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": None},
        {"x-death": []},
        {"x-death": "rejected"},
        {"x-death": ["rejected"]},
        {"x-death": [{}]},
        {"x-death": [{"count": "many", "time": 5, "routing-keys": "key", "queue": 1, "exchange": None}]},
        {"x-death": [{"routing-keys": [], "count": -1}]},
        {"x-billing-reason": "half a letter"},
        {b"\xff": "a name that is not UTF-8"},
    ],
)
def test_message_without_headers_is_a_dead_letter(headers: Mapping[Any, Any]) -> None:
    read = read_in(in_dead_queue(headers=headers))
    assert (read.reason, read.last_failed_at) == ("unknown", EPOCH)
    assert {name: getattr(read, name) for name in UNKNOWN_ORIGIN} == UNKNOWN_ORIGIN


SAID = {"type": "usage.deduct", "reference_id": "r-1", "user_id": "ann"}
NOTHING = dict.fromkeys(SAID)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"type": "usage.deduct", "referenceId": "r-1", "userId": "ann", "tokens": 5}', SAID),
        (
            b'{"type": "usage.batch", "referenceId": "b", "items": [{"userId": "ann"}]}',
            NOTHING | {"type": "usage.batch", "reference_id": "b"},
        ),
        (
            b'{"type": "balance.low", "id": "n", "userId": "ann", "referenceId": "r-1"}',
            SAID | {"type": "balance.low"},
        ),
        (b'{"type": "usage.fly", "userId": 5, "referenceId": null}', NOTHING | {"type": "usage.fly"}),
        (
            b'{"type": "usage.deduct", "user_id": "ann", "reference_id": "r-1"}',
            NOTHING | {"type": "usage.deduct"},
        ),
        (b'{"userId": "ann", "userId": "bob", "type": "usage.deduct"}', NOTHING),
        (
            b'{"userId": "a\\u0000", "referenceId": "\\ud800", "type": "usage.deduct"}',
            NOTHING | {"type": "usage.deduct"},
        ),
        (b'{"userId": "' + b"a" * 201 + b'"}', NOTHING),
        (b'{"userId": "ann", "pad": "' + b"x" * (256 * 1024) + b'"}', NOTHING),
        (b'{"userId": "ann", "tokens": ' + b"9" * 5_000 + b"}", NOTHING),
        (b'{"userId": "ann", "items": ' + b"[" * 200_000, NOTHING),
        ('{"userId": "ann"}'.encode("utf-16"), NOTHING),
        (b"\xff", NOTHING),
        (b"[]", NOTHING),
        (b"null", NOTHING),
        (b"", NOTHING),
    ],
)
def test_type_reference_and_user_come_from_the_body(body: bytes, said: dict[str, str | None]) -> None:
    assert identities_in(body) == said
    forged = {f"x-billing-{name}": "forged" for name in ("type", "reference-id", "user-id")}
    for headers in ({}, dead_letter_of(delivery(body)).headers, {"x-death": [DEATH]}):
        read = read_in(in_dead_queue(body, {**headers, **forged}, user_id=OWN_USER))
        assert {name: getattr(read, name) for name in said} == said


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(st.characters(), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "referenceId", "userId", "x"]), inner, max_size=4)
        ),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
)
def test_identities_are_read_from_any_body(body: bytes) -> None:
    assert identities_in(body).keys() == SAID.keys()


@pytest.mark.parametrize(
    ("forged", "kept"),
    [
        ({"x-billing-attempts": 2**62}, {"attempts": 1_000_000}),
        ({"x-billing-attempts": -5}, {"attempts": 1}),
        ({"x-billing-schema-version": 10**9}, {"schema_version": 32_767}),
        (
            {"x-billing-last-failed-at": "2026-01-01T00:00:00"},
            {"last_failed_at": datetime(2026, 1, 1, tzinfo=UTC)},
        ),
        ({"x-billing-last-failed-at": "0001-01-01T00:00:00+14:00"}, {"last_failed_at": EPOCH}),
        ({"x-billing-last-failed-at": "9999-12-31T23:59:59-14:00"}, {"last_failed_at": EPOCH}),
    ],
)
def test_strange_dead_letter_of_a_worker_fits_the_table(forged: dict[str, Any], kept: dict[str, Any]) -> None:
    read = read_in(in_dead_queue(b"", {**dead_letter_of().headers, **forged}, user_id=OWN_USER))
    assert {name: getattr(read, name) for name in kept} == kept


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = ["x-billing-" + name.replace("_", "-") for name in DeadLetter.model_fields]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([*_FIELDS, "x-death", "other"]), ANY),
    st.lists(st.dictionaries(st.sampled_from(list(DEATH)), ANY), max_size=2),
    st.booleans(),
)
def test_any_headers_are_read(headers: dict[str, Any], deaths: list[dict[str, Any]], whole: bool) -> None:
    complete = dead_letter_of().headers if whole else {}
    deaths_in = {"x-death": deaths} if deaths else {}
    read = read_in(in_dead_queue(headers={**deaths_in, **complete, **headers}, user_id=OWN_USER))
    assert read.attempts >= 1
    assert read.last_failed_at.tzinfo is not None
