"""A dead letter as the message it was: for a replay, and for a judgement of its effect."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.dead_letter import REPLAY_DEAD_LETTER_HEADER, REPLAY_HEADER
from worker.broker import Delivery, Outgoing
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.store.encoding import restored
from worker.messages.dead_letters import is_brokers_own

#: Properties of the producer's that are sent again. Not ``user_id``, which must name the connection
#: that publishes; not ``expiration``, which would end a replayed message's life; not the transport's own.
_SENT_AGAIN = {
    "content_type",
    "content_encoding",
    "priority",
    "correlation_id",
    "reply_to",
    "message_id",
    "timestamp",
    "type",
    "app_id",
}


def replay_of(
    dead_letter: StoredDeadLetter, sent_as: str | None = None, replay_id: int | None = None
) -> Outgoing:
    """Return the message as it first came, or with its edited body, without the headers added since.

    ``sent_as`` is the broker user that publishes it: the first sender can't be claimed by another, and rules
    about senders judge a replay by its publisher. ``replay_id`` goes beside it, with the dead letter's
    number: it is the same dead letter if it fails again, and a worker drops the deadline of its usage. A
    ``reply_to`` that names a queue of ``sent_as`` is dropped unless that user sent the message first: the
    first sender may not name that queue.
    """
    properties = restored(dead_letter.properties.get("properties", {}))
    headers = restored(dead_letter.properties.get("headers", {}))
    again = {name: value for name, value in properties.items() if name in _SENT_AGAIN}
    if _steers_to(sent_as, again.get("reply_to")) and _sender_in(properties, headers) != sent_as:
        del again["reply_to"]
    own = (
        {} if replay_id is None else {REPLAY_HEADER: replay_id, REPLAY_DEAD_LETTER_HEADER: dead_letter.number}
    )
    return Outgoing(
        body=dead_letter.current_body,
        exchange=dead_letter.exchange,
        routing_key=dead_letter.routing_key,
        properties=again | {"user_id": sent_as},
        headers={name: value for name, value in headers.items() if not is_brokers_own(str(name))} | own,
    )


def _steers_to(user: str | None, reply_to: Any) -> bool:
    """Return True where ``reply_to`` names a reply queue of ``user``, whatever it begins with."""
    return user is not None and isinstance(reply_to, str) and f".{user}." in f"{reply_to}."


def _sender_in(properties: Mapping[str, Any], headers: Mapping[Any, Any]) -> Any:
    """Return the first sender, as the broker vouches for it, or as the worker that refused it says.

    Where the broker itself made the dead letter, the header is the producer's word.
    """
    named = None if "x-death" in headers else headers.get("x-billing-sent-by")
    return properties.get("user_id", named)


def as_delivered(
    dead_letter: StoredDeadLetter, sent_as: str | None = None, body: bytes | None = None
) -> Delivery:
    """Return the dead letter as a worker would get it if it were sent now; ``body`` replaces the body."""
    message = replay_of(dead_letter, sent_as)
    # It marks a replay, which drops a deadline.
    headers = {**message.headers, REPLAY_DEAD_LETTER_HEADER: dead_letter.number}
    properties: dict[str, Any] = {
        name: value for name, value in message.properties.items() if value is not None
    }
    delivery = Delivery(
        body=message.body,
        queue=dead_letter.queue,
        exchange=message.exchange,
        routing_key=message.routing_key,
        tag=0,
        properties=properties,
        headers=headers,
    )
    return delivery if body is None else replace(delivery, body=body)
