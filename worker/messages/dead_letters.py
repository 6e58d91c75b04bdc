"""The wire form of dead letters: a delivery with the reason beside it, and the dead letter read back."""

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from amqp.serialization import dumps
from pydantic import TypeAdapter, ValidationError

from schemas import SCHEMA_VERSION, DeadLetter, DeadLetterReason, Malformed, Message, WantedReplies
from schemas.dead_letter import (
    HEADER_PREFIX,
    RECOVERY_HEADER,
    RECOVERY_SINCE_HEADER,
    REPLAY_DEAD_LETTER_HEADER,
    REPLAY_HEADER,
    SENDER_HEADER,
)
from schemas.decoding import BODY_MAX_BYTES
from schemas.fields import Identifier
from worker import __version__
from worker.broker import BILLING, Delivery
from worker.messages.origin import DEATHS, Origin, origin_of, republished
from worker.messages.outgoing import OutgoingDeadLetter
from worker.messages.policy import Policy

# All headers must fit one frame (128 KiB), beside the properties and the headers added here.
_HEADERS_MAX_BYTES = 96 * 1024
_TRACEBACK_MAX_BYTES = 8_000
_MESSAGE_MAX_BYTES = 1_000

# The broker's own, or dangerous to send again: CC and BCC would deliver copies, x-death confuses the
# broker's cycle detection.
_BROKERS_OWN = {"cc", "bcc", "x-death", "x-delivery-count", "x-acquired-count"}
_BROKERS_PREFIXES = ("x-first-death-", "x-last-death-", HEADER_PREFIX)

# Headers of a replay.
_SAID_ANEW = {
    REPLAY_HEADER,
    REPLAY_DEAD_LETTER_HEADER,
    SENDER_HEADER,
    RECOVERY_HEADER,
    RECOVERY_SINCE_HEADER,
}

# user_id must name the connection that publishes, expiration would end the dead letter's life.
_PROPERTIES_NOT_SENT_AGAIN = {"application_headers", "user_id", "expiration", "delivery_mode", "cluster_id"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a delivery becomes a dead letter; ``code`` is stable, ``message`` is for people.

    ``replies`` are those that its sender wants, as far as they could be read.
    """

    code: DeadLetterReason
    message: str
    field: str | None = None
    traceback: str | None = None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None
    replies: WantedReplies | None = None

    @classmethod
    def of(
        cls,
        subject: Message | Malformed | None,
        code: DeadLetterReason,
        message: str,
        field: str | None = None,
        traceback: str | None = None,
    ) -> "Failure":
        """Return the failure, with the identities of ``subject`` as far as they could be read."""
        if subject is None:
            return cls(code, message, field, traceback)
        return cls(
            code,
            message,
            field,
            traceback,
            subject.type,
            subject.reference_id,
            subject.user_id,
            subject.replies,
        )

    @classmethod
    def of_malformed(cls, malformed: Malformed) -> "Failure":
        """Return the failure of a message, or of an item, that is no command."""
        return cls.of(malformed, malformed.reason, malformed.message, malformed.field)


def dead_letter_for(
    delivery: Delivery, failure: Failure, policy: Policy, *, tries: int, now: datetime
) -> OutgoingDeadLetter:
    """Return the message for the dead-letter queue: the delivery's bytes, its properties, and the reason.

    It names the user that publishes it: whoever drains the queue believes worker users alone.
    """
    origin = origin_of(delivery, policy.worker_users)
    headers, omitted = sendable(delivery.headers, origin)
    replay = delivery.headers if origin.is_ours else {}
    dead_letter = DeadLetter(
        letter_id=dead_letter_id(delivery),
        reason=failure.code,
        message=_beginning(failure.message),
        field=None if failure.field is None else _beginning(failure.field),
        traceback=None if failure.traceback is None else _end(failure.traceback),
        queue=delivery.queue,
        exchange=encodable(delivery.exchange),
        routing_key=encodable(delivery.routing_key),
        attempts=delivery.delivery_count + tries,
        first_failed_at=now,
        last_failed_at=now,
        type=failure.type,
        reference_id=failure.reference_id,
        user_id=failure.user_id,
        worker_version=__version__,
        schema_version=SCHEMA_VERSION,
        headers_omitted=_beginning(", ".join(omitted)) or None,
        replay=_number(replay, REPLAY_HEADER),
        replay_letter=_number(replay, REPLAY_DEAD_LETTER_HEADER),
    )
    message = OutgoingDeadLetter(
        body=delivery.body,
        exchange="",
        routing_key=policy.topology.dead.name,
        properties=_properties(delivery),
        reason=failure.code,
        headers=headers | dead_letter.to_headers() | _kept_as_headers(delivery),
    )
    return republished(message, sender=origin.sender, sent_as=policy.user)


def dead_letter_id(delivery: Delivery, queue: str | None = None) -> str:
    """Return the id of a message, the same each time it is delivered: of its lane, message id and bytes.

    ``queue`` is where the message failed, where that isn't the queue it was delivered from. Its partition
    doesn't count: there may be more of them by the time a message comes again.
    """
    lane = BILLING.lane_of(delivery.queue if queue is None else queue)
    digest = hashlib.sha256(lane.encode("utf-8", "surrogatepass"))
    digest.update(b"\0" + (delivery.text("message_id") or "").encode("utf-8", "surrogatepass") + b"\0")
    digest.update(delivery.body)
    return digest.hexdigest()[:32]


def encodable(text: str) -> str:
    """Return ``text`` with the halves of surrogate pairs spelled out: AMQP carries them, UTF-8 does not."""
    return text.encode("utf-8", "backslashreplace").decode()


def _number(headers: Mapping[str, Any], header: str) -> int | None:
    """Return a number that a replay put into a header."""
    value = headers.get(header)
    return value if type(value) is int and 0 < value < 2**63 else None


def _beginning(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:_MESSAGE_MAX_BYTES].decode("utf-8", "ignore")


def _end(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[-_TRACEBACK_MAX_BYTES:].decode("utf-8", "ignore")


def _properties(delivery: Delivery) -> dict[str, Any]:
    if delivery.unreadable is not None:
        return {}
    return {
        name: value for name, value in delivery.properties.items() if name not in _PROPERTIES_NOT_SENT_AGAIN
    }


def _kept_as_headers(delivery: Delivery) -> dict[str, str]:
    kept = {
        "x-billing-sent-by": delivery.text("user_id"),
        "x-billing-expiration": delivery.text("expiration"),
        "x-billing-unreadable-properties": None
        if delivery.unreadable is None
        else delivery.unreadable[:4096].hex(),
    }
    return {name: value for name, value in kept.items() if value is not None}


def sendable(headers: Mapping[Any, Any], origin: Origin) -> tuple[dict[str, Any], list[str]]:
    """Return the original headers that can be sent along, and the names of the others."""
    sendable: dict[str, Any] = {}
    omitted: list[str] = []
    room = _HEADERS_MAX_BYTES
    for name, value in headers.items():
        size = _size(name, value)
        if origin.is_ours and name in _SAID_ANEW:
            continue  # the dead letter says it, or it is about this delivery alone
        if size is None or size > room or is_brokers_own(str(name)):
            omitted.append(str(name).encode("unicode_escape").decode())
        else:
            sendable[name] = value
            room -= size
    return sendable, omitted


def is_brokers_own(name: str) -> bool:
    """Return True for a header that the broker or a worker sets, and not the producer."""
    lowered = name.lower()
    return lowered in _BROKERS_OWN or lowered.startswith(_BROKERS_PREFIXES)


def _size(name: Any, value: Any) -> int | None:
    try:
        return len(dumps("F", ({name: value},)))
    except Exception:  # noqa: BLE001 - a value that the client can't write is left out and named
        return None


@dataclass(frozen=True, slots=True)
class ReadDeadLetter:
    """A dead letter as it was read from its queue.

    ``is_vouched`` is True where the broker vouches that a worker user published it: only then its headers
    are believed, and its origin is known. ``sender`` is the first sender, as far as the broker vouches.
    """

    dead_letter: DeadLetter
    sender: str | None
    is_vouched: bool


def read_dead_letter(delivery: Delivery, worker_users: Collection[str | None]) -> ReadDeadLetter:
    """Return the dead letter of a message in the dead-letter queue, also where no worker put it there.

    Any publisher to that queue may have written anything. Type, reference and user are taken from the body,
    whatever the headers say.
    """
    origin = origin_of(delivery, worker_users)
    headers: Mapping[Any, Any] = delivery.headers  # the client leaves a name as bytes where it isn't UTF-8
    named = {name: value for name, value in headers.items() if isinstance(name, str)}
    # A worker sends no x-death along: the broker took such a message from another queue.
    if origin.is_republished and DEATHS not in named:
        with suppress(ValidationError):
            vouched = _vouched(delivery, DeadLetter.from_headers(named))
            return ReadDeadLetter(vouched, origin.sender, is_vouched=True)
    return ReadDeadLetter(_of_unknown_origin(delivery, origin), origin.sender, is_vouched=False)


def _vouched(delivery: Delivery, dead_letter: DeadLetter) -> DeadLetter:
    return dead_letter.model_copy(
        update={
            # Not the id that it claims: under the id of another dead letter these bytes would be lost.
            "letter_id": dead_letter_id(delivery, dead_letter.queue),
            "attempts": _attempts(dead_letter.attempts),
            "schema_version": min(max(dead_letter.schema_version, 0), _SMALL_MAX),
            "first_failed_at": _moment(dead_letter.first_failed_at),
            "last_failed_at": _moment(dead_letter.last_failed_at),
            **identities_in(delivery.body),
        }
    )


def identities_in(body: bytes) -> dict[str, str | None]:
    """Return ``type``, ``reference_id`` and ``user_id`` of the message itself; never raises.

    None stands for each that the body doesn't have, or has in a form that no command may. A body that is no
    JSON object, gives a name twice or is over the limit of the contract has none. It isn't decoded as a
    command: that may bring down the process.
    """
    said = _json_object(body)
    return {name: _identifier(said.get(key)) for name, key in _IDENTITIES.items()}


def _json_object(body: bytes) -> dict[str, Any]:
    if len(body) > BODY_MAX_BYTES:
        return {}
    try:
        said = json.loads(body.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _identifier(value: Any) -> str | None:
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError:
        return None


_IDENTITIES = {"type": "type", "reference_id": "referenceId", "user_id": "userId"}
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def _last_death(deaths: Any) -> Mapping[str, Any]:
    """Return the latest death in ``x-death``, the broker's first; empty without one."""
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _of_unknown_origin(delivery: Delivery, origin: Origin) -> DeadLetter:
    """Return a dead letter that no worker vouches for: of its body, and of what ``x-death`` says.

    The broker writes ``x-death``, and so does any publisher: it gives a reason out of the broker's own and a
    time, on which nothing depends. Queue, exchange, key and tries are placeholders.
    """
    death = _last_death(delivery.headers.get(DEATHS))
    reason = death.get("reason")
    is_brokers = isinstance(reason, str) and reason in _BROKERS_REASONS
    moment = _moment(death.get("time"))
    replay = delivery.headers if origin.is_ours else {}
    return DeadLetter(
        letter_id=dead_letter_id(delivery),
        reason=str(reason) if is_brokers else DeadLetterReason.UNKNOWN,
        message=_text_of_unknown_origin(death if is_brokers else {}),
        **UNKNOWN_ORIGIN,
        first_failed_at=moment,
        last_failed_at=moment,
        **identities_in(delivery.body),
        replay=_number(replay, REPLAY_HEADER),
        replay_letter=_number(replay, REPLAY_DEAD_LETTER_HEADER),
    )


def _text_of_unknown_origin(death: Mapping[str, Any]) -> str:
    unknown = "Of unknown origin: no worker published it."
    if not death:
        return unknown
    queue = death.get("queue")
    taken = f" from {encodable(queue)[:_NAME_MAX]!r}" if isinstance(queue, str) else ""
    return f"{unknown} Its header x-death says that the broker took it{taken}: {death['reason']}."


#: Values that stand in the row of a dead letter of unknown origin, for columns that are never null.
UNKNOWN_ORIGIN: Final[Mapping[str, Any]] = {
    "queue": "",
    "exchange": "",
    "routing_key": "",
    "attempts": 1,
    "worker_version": "",
    "schema_version": 0,
}

_BROKERS_REASONS = {
    DeadLetterReason.REJECTED,
    DeadLetterReason.EXPIRED,
    DeadLetterReason.MAXLEN,
    DeadLetterReason.DELIVERY_LIMIT,
}
_NAME_MAX = 100


def _attempts(value: Any) -> int:
    """Return at least one, and no more than a column can sum up for many of them."""
    return min(max(value, 1), _ATTEMPTS_MAX) if isinstance(value, int) else 1


def _moment(value: Any) -> datetime:
    """Return ``value`` in UTC; AMQP's times come without a zone and are UTC."""
    if not isinstance(value, datetime):
        return EPOCH
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return EPOCH


_ATTEMPTS_MAX = 1_000_000
_SMALL_MAX = 2**15 - 1

#: Stands for an unknown time.
EPOCH = datetime.fromtimestamp(0, UTC)
