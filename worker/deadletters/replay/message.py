"""A dead letter as the message it was: for a replay, and for a judgement of its effect."""

from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from schemas import MESSAGE_TYPES, DeadLetterReason, NoticeType
from schemas.dead_letter import REPLAY_DEAD_LETTER_HEADER, REPLAY_HEADER
from worker.broker import BILLING, Delivery, Outgoing
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.store.encoding import restored
from worker.errors import NotPossibleError
from worker.messages.dead_letters import identities_in, is_brokers_own
from worker.messages.origin import republished

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

_NOTICE_TYPES: Final = frozenset(get_args(NoticeType))


@dataclass(frozen=True, slots=True)
class Destination:
    """Exchange and routing key of a replay."""

    exchange: str
    routing_key: str


def destination_of(dead_letter: StoredDeadLetter) -> Destination:
    """Return where a replay goes: to an exchange of ours, with the type of the body as its key.

    Where it came from decides on the lane alone, and only where a worker vouches for that. Raises
    NotPossibleError for a body without a type that an exchange of ours takes.
    """
    type_ = identities_in(dead_letter.current_body)["type"]
    if type_ in MESSAGE_TYPES:
        is_bulk = dead_letter.exchange == BILLING.bulk_exchange and BILLING.bulk.takes(type_)
        return Destination(BILLING.bulk_exchange if is_bulk else BILLING.exchange, type_)
    if type_ is not None and is_notice(dead_letter):
        return Destination(BILLING.events, type_)
    said = "no type" if type_ is None else f"the type {type_[:100]!r}"
    raise NotPossibleError(f"its body has {said}, which no exchange of commands takes: edit the body first")


def is_notice(dead_letter: StoredDeadLetter) -> bool:
    """Return True for a notice that the broker refused, as a worker vouches; it ends on delivery."""
    if dead_letter.reason != DeadLetterReason.NOTICE_REFUSED or not dead_letter.is_origin_known:
        return False
    return identities_in(dead_letter.current_body)["type"] in _NOTICE_TYPES


def replay_of(
    dead_letter: StoredDeadLetter, sent_as: str | None = None, replay_id: int | None = None
) -> Outgoing:
    """Return the message of a replay: the body as it first came, or edited, without the headers added since.

    ``sent_as`` is the broker user that publishes it: the first sender can't be claimed by another, and goes
    beside it in a header. ``replay_id`` goes there too, with the dead letter's number: it is the same dead
    letter if it fails again, and a worker drops the deadline of its usage. Raises NotPossibleError.
    """
    return _sent_to(destination_of(dead_letter), dead_letter, sent_as, replay_id)


def _sent_to(
    destination: Destination, dead_letter: StoredDeadLetter, sent_as: str | None, replay_id: int | None
) -> Outgoing:
    properties = restored(dead_letter.properties.get("properties", {}))
    headers = restored(dead_letter.properties.get("headers", {}))
    own = (
        {} if replay_id is None else {REPLAY_HEADER: replay_id, REPLAY_DEAD_LETTER_HEADER: dead_letter.number}
    )
    message = Outgoing(
        body=dead_letter.current_body,
        exchange=destination.exchange,
        routing_key=destination.routing_key,
        properties={name: value for name, value in properties.items() if name in _SENT_AGAIN},
        headers={name: value for name, value in headers.items() if not is_brokers_own(str(name))} | own,
    )
    return republished(message, sender=dead_letter.sender, sent_as=sent_as)


def as_delivered(
    dead_letter: StoredDeadLetter, sent_as: str | None = None, body: bytes | None = None
) -> Delivery:
    """Return the dead letter as a worker would get it if it were sent now; ``body`` replaces the body.

    One that can't be sent gets a key without a type: a worker refuses its body all the same.
    """
    shown = dead_letter if body is None else replace(dead_letter, edited_body=body)
    try:
        destination = destination_of(shown)
        queue = _queue_of(destination)
    except NotPossibleError:
        destination, queue = Destination(BILLING.exchange, ""), ""
    message = _sent_to(destination, shown, sent_as, None)
    # It marks a replay, which drops a deadline.
    headers: dict[str, Any] = {**message.headers, REPLAY_DEAD_LETTER_HEADER: dead_letter.number}
    return Delivery(
        body=message.body,
        queue=queue,
        exchange=message.exchange,
        routing_key=message.routing_key,
        tag=0,
        properties=message.properties,
        headers=headers,
    )


def _queue_of(destination: Destination) -> str:
    if destination.exchange == BILLING.bulk_exchange:
        return BILLING.bulk.name
    return "" if destination.exchange == BILLING.events else BILLING.queue_of(destination.routing_key).name
