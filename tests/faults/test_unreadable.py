"""Messages that no client library sends or the worker's can't read become dead letters and do no harm."""

from collections.abc import Sequence
from typing import Any

import pika

from schemas import DeadLetter
from tests.support.expected_state import nothing_is_left
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING

GOOD = b'{"type": "usage.deduct", "referenceId": "poison", "userId": "u", "tokens": 1}'
NO_JSON = b"{"

HEADERS, CORRELATION_ID, REPLY_TO, MESSAGE_ID = 0x2000, 0x0400, 0x0200, 0x0080


class RawProperties(pika.BasicProperties):  # type: ignore[misc]  # pika ships no types
    """Properties given as the bytes on the wire."""

    def __init__(self, flags: int, payload: bytes) -> None:
        super().__init__()
        self._raw = flags.to_bytes(2, "big") + payload

    def encode(self) -> list[bytes]:
        return [self._raw]


def short(text: bytes) -> bytes:
    return len(text).to_bytes(1, "big") + text


def table(*items: bytes) -> bytes:
    return sum(map(len, items)).to_bytes(4, "big") + b"".join(items)


MILLISECONDS = (1_795_000_000_000_000).to_bytes(8, "big")

UNREADABLE = {
    "a header with a time in milliseconds": RawProperties(
        HEADERS, table(short(b"sentAt") + b"T" + MILLISECONDS)
    ),
    "the same deep inside": RawProperties(
        HEADERS,
        table(short(b"trace") + b"F" + table(short(b"hops") + b"A" + table(b"T" + MILLISECONDS))),
    ),
    "a correlation id that is not UTF-8": RawProperties(CORRELATION_ID, short(b"caf\xe9")),
    "a reply queue that is not UTF-8": RawProperties(REPLY_TO, short(b"billing.replies.\xff")),
}

READABLE = {
    "a message id with half of a surrogate pair": RawProperties(MESSAGE_ID, short(b"\xed\xa0\x80")),
    "header names and values that are not UTF-8": RawProperties(
        HEADERS, table(short(b"\xff") + b"S" + table(b"\xfe"), short(b"raw") + b"x" + table(b"\x00\xff"))
    ),
    "every kind of header value": RawProperties(
        HEADERS,
        table(
            short(b"void") + b"V",
            short(b"yes") + b"t\x01",
            short(b"octet") + b"b\xff",
            short(b"short") + b"s\x80\x00",
            short(b"int") + b"I\x80\x00\x00\x00",
            short(b"long") + b"l" + b"\x80" + b"\x00" * 7,
            short(b"float") + b"f\x3f\xc0\x00\x00",
            short(b"double") + b"d\x3f\xf8" + b"\x00" * 6,
            short(b"decimal") + b"D\x05\x00\x00\x00\x07",
            short(b"time") + b"T" + b"\x00" * 8,
            short(b"") + b"S" + table(),
        ),
    ),
    "a time of the message in milliseconds": RawProperties(0x0040, MILLISECONDS),
    "an empty correlation id": RawProperties(CORRELATION_ID, short(b"")),
}


def test_unreadable_properties_make_a_dead_letter_and_spare_the_neighbours(
    application: Application, rabbit: RabbitClient
) -> None:
    with running(application):
        neighbours = [rabbit.publish(neighbour_of("before"))]
        for properties in UNREADABLE.values():
            send(rabbit, GOOD, properties)
            send(rabbit, NO_JSON, properties)
        neighbours.append(rabbit.publish(neighbour_of("after")))
        rabbit.replies(neighbours)
        dead_letters = dead_letters_in(rabbit, 2 * len(UNREADABLE))
    assert {dead_letter.reason for dead_letter in dead_letters} == {"unreadable_properties"}
    nothing_is_left(rabbit)


def test_readable_message_with_odd_properties_is_applied(
    application: Application, rabbit: RabbitClient
) -> None:
    with running(application):
        for number, properties in enumerate(READABLE.values()):
            send(rabbit, GOOD.replace(b"poison", b"odd-%d" % number), properties)
        rabbit.request(neighbour_of("after"))
        rabbit.take(BILLING.replies.name, len(READABLE))
    assert rabbit.depth(BILLING.dead.name) == 0
    nothing_is_left(rabbit)


def test_odd_headers_stay_with_the_dead_letter(application: Application, rabbit: RabbitClient) -> None:
    with running(application):
        for properties in READABLE.values():
            send(rabbit, NO_JSON, properties)
        dead_letters = dead_letters_in(rabbit, len(READABLE))
    assert {dead_letter.reason for dead_letter in dead_letters} == {"not_json"}
    nothing_is_left(rabbit)


def test_routing_key_not_in_utf_8_makes_a_dead_letter_and_spares_the_neighbours(
    application: Application, rabbit: RabbitClient
) -> None:
    keys = [b"usage.\xff", b"usage.\xed\xa0\x80", b"usage." + b"\xff" * 249]
    with running(application):
        for key in keys:
            for body in (GOOD, NO_JSON):
                rabbit.channel.basic_publish(
                    "billing", RawKey(key), body, pika.BasicProperties(), mandatory=True
                )
        rabbit.request(neighbour_of("after"))
        dead_letters = dead_letters_in(rabbit, 2 * len(keys))
    reasons = {dead_letter.reason for dead_letter in dead_letters}
    assert reasons <= {"unreadable_properties", "wrong_routing_key", "not_json"}
    nothing_is_left(rabbit)


class RawKey(str):
    """A routing key given as the bytes on the wire."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> "RawKey":
        return super().__new__(cls, raw.decode("latin-1"))

    def encode(self, *_arguments: Any) -> bytes:
        return super().encode("latin-1")


def test_dead_letter_drops_properties_that_would_copy_or_expire_it(
    application: Application, rabbitmq: RabbitMQServer, rabbit: RabbitClient
) -> None:
    rabbit.channel.queue_declare("usage.copied")
    properties: dict[str, Any] = {
        "headers": {"CC": ["usage.copied"], "BCC": ["usage.hidden"], "x-note": "kept"},
        "user_id": rabbitmq.address.user,
        "expiration": "60000",
    }
    with running(application):
        rabbit.publish(NO_JSON, routing_key="usage.deduct", **properties)
        ((dead_letter, body),) = rabbit.take(BILLING.dead.name, 1)
        rabbit.request(neighbour_of("after"))
    assert body == NO_JSON
    assert dead_letter.headers["x-note"] == "kept"
    assert (dead_letter.user_id, dead_letter.expiration) == (rabbit.user, None)
    assert dead_letter.headers["x-billing-sent-by"] == rabbitmq.address.user
    assert rabbit.depth("usage.copied") == rabbit.depth(BILLING.dead.name) == 0
    nothing_is_left(rabbit)


def send(rabbit: RabbitClient, body: bytes, properties: RawProperties) -> None:
    rabbit.channel.basic_publish("billing", "usage.deduct", body, properties, mandatory=True)


def neighbour_of(name: str) -> dict[str, object]:
    return {"type": "usage.deduct", "referenceId": f"neighbour-{name}", "userId": "u", "tokens": 1}


def dead_letters_in(rabbit: RabbitClient, count: int) -> Sequence[DeadLetter]:
    return [
        DeadLetter.from_headers(properties.headers) for properties, _ in rabbit.take(BILLING.dead.name, count)
    ]
