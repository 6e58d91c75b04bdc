"""Routing keys of messages that are published again: their partition is found anew."""

from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from schemas import Limits, Malformed, decode, routing_key_of
from worker.broker import Outgoing
from worker.broker.partitions import without_partition

#: What can't be decoded by these needs no partition: it becomes a dead letter wherever it waits.
_LIMITS = Limits(ids=None)

_Message = TypeVar("_Message", bound=Outgoing)


def routed(message: _Message, partitions: int, now: datetime) -> _Message:
    """Return a command with the routing key of its user's partition, whichever it had before.

    The type in the key stays: by it rights to publish are granted.
    """
    type_ = without_partition(message.routing_key)
    key = _key_of(message.body, type_, partitions, now) if partitions else type_
    return message if key == message.routing_key else replace(message, routing_key=key)


def _key_of(body: bytes, type_: str, partitions: int, now: datetime) -> str:
    decoded = decode(body, now=now, limits=_LIMITS)
    if isinstance(decoded, Malformed) or decoded.type != type_:
        return type_
    return routing_key_of(decoded, partitions)
