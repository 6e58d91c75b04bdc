"""From a delivery that could not be applied to the dead letter that tells why."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from amqp.serialization import dumps
from pydantic import ValidationError

from schemas import SCHEMA_VERSION, DeadLetter
from worker import __version__
from worker.broker import Delivery, Outgoing

# All headers must fit one frame (128 KiB), beside the properties and what is said here.
_HEADERS_MAX_BYTES = 96 * 1024
_TRACEBACK_MAX = 8_000
_MESSAGE_MAX = 1_000

# The broker's own, or dangerous to send again: CC and BCC would deliver copies, x-death confuses the
# broker's cycle detection.
_BROKERS_OWN = {"cc", "bcc", "x-delivery-count", "x-acquired-count"}
_BROKERS_PREFIXES = ("x-death", "x-first-death-", "x-last-death-", "x-billing-")

# user_id must name the connection that publishes, expiration would end the letter's life.
_PROPERTIES_NOT_SENT_AGAIN = {"application_headers", "user_id", "expiration", "delivery_mode", "cluster_id"}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a delivery becomes a dead letter; ``code`` is stable, the rest is for people."""

    code: str
    message: str
    field: str | None = None
    traceback: str | None = None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None


def dead_letter_for(delivery: Delivery, reason: Reason, *, queue: str, tries: int, now: datetime) -> Outgoing:
    """The message to publish to ``queue``: the delivery's bytes, its properties, and why it is here."""
    headers, omitted = _sendable(delivery.headers)
    letter = DeadLetter(
        letter_id=letter_id(delivery),
        reason=reason.code,
        message=reason.message[:_MESSAGE_MAX],
        field=reason.field,
        traceback=None if reason.traceback is None else reason.traceback[-_TRACEBACK_MAX:],
        queue=delivery.queue,
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        attempts=delivery.delivery_count + tries,
        first_failed_at=now,
        last_failed_at=now,
        type=reason.type,
        reference_id=reason.reference_id,
        user_id=reason.user_id,
        worker_version=__version__,
        schema_version=SCHEMA_VERSION,
        headers_omitted=", ".join(omitted)[:_MESSAGE_MAX] or None,
    )
    return Outgoing(
        body=delivery.body,
        exchange="",
        routing_key=queue,
        properties=_properties(delivery),
        headers=headers | letter.to_headers() | _kept_as_headers(delivery),
    )


def letter_id(delivery: Delivery) -> str:
    """The same for the same message, delivered again: of its queue, its message id and its bytes."""
    digest = hashlib.sha256(delivery.queue.encode())
    digest.update(b"\0" + (delivery.text("message_id") or "").encode("utf-8", "surrogatepass") + b"\0")
    digest.update(delivery.body)
    return digest.hexdigest()[:32]


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


def _sendable(headers: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The original headers that can be sent along, and the names of those that can't."""
    sendable: dict[str, Any] = {}
    omitted: list[str] = []
    room = _HEADERS_MAX_BYTES
    for name, value in headers.items():
        size = _size(name, value)
        if size is None or size > room or _is_brokers(str(name)):
            omitted.append(str(name).encode("unicode_escape").decode())
        else:
            sendable[name] = value
            room -= size
    return sendable, omitted


def _is_brokers(name: str) -> bool:
    lowered = name.lower()
    return lowered in _BROKERS_OWN or lowered.startswith(_BROKERS_PREFIXES)


def _size(name: Any, value: Any) -> int | None:
    try:
        return len(dumps("F", ({name: value},)))
    except Exception:  # noqa: BLE001 - what the client can't write is left out and named
        return None


def letter_in(delivery: Delivery) -> DeadLetter:
    """The letter a message in the dead-letter queue tells of, also where the broker itself put it there."""
    try:
        return DeadLetter.from_headers(delivery.headers)
    except ValidationError:
        return _brokers_letter(delivery)


def _brokers_letter(delivery: Delivery) -> DeadLetter:
    """What ``x-death`` says; nothing of it is taken for granted."""
    deaths = delivery.headers.get("x-death")
    death: Mapping[str, Any] = deaths[0] if isinstance(deaths, list) and deaths else {}
    keys = death.get("routing-keys") or [delivery.routing_key]
    at = death.get("time")
    moment = at.replace(tzinfo=UTC) if isinstance(at, datetime) else _EPOCH
    reason = str(death.get("reason", "unknown"))
    return DeadLetter(
        letter_id=letter_id(delivery),
        reason=reason,
        message=f"The broker put this message here: {reason}.",
        queue=str(death.get("queue", delivery.queue)),
        exchange=str(death.get("exchange", "")),
        routing_key=str(keys[0]),
        attempts=max(int(death.get("count", 1)), 1),
        first_failed_at=moment,
        last_failed_at=moment,
        worker_version=__version__,
        schema_version=SCHEMA_VERSION,
    )


#: Stands for a time that nobody wrote down.
_EPOCH = datetime.fromtimestamp(0, UTC)
