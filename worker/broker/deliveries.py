"""Deliveries: bytes with properties, nothing decoded."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Bodies received at once fill no more than this, plus the rest of the last one: a message may bring a
#: thousand commands, and all that is received at once is one transaction.
BATCH_MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One delivery, as it came. ``tag`` is valid on the link it came from and nowhere else.

    ``properties`` have AMQP's names (``message_id``, ``reply_to``, …), the headers apart. ``unreadable``
    holds the frame of properties that the client could not parse; both mappings are empty then.
    """

    body: bytes
    queue: str
    exchange: str
    routing_key: str
    tag: int | str
    redelivered: bool = False
    properties: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    unreadable: bytes | None = None

    @property
    def delivery_count(self) -> int:
        """Number of times the broker has taken this message back before (quorum queues count it).

        A first delivery has no count: the header is then the sender's own.
        """
        if not self.redelivered:
            return 0
        count = self.headers.get("x-delivery-count", 0)
        return count if isinstance(count, int) else 0

    def text(self, name: str) -> str | None:
        """A property that is a non-empty string, or None."""
        value = self.properties.get(name)
        return value if isinstance(value, str) and value else None


def front_of(arrived: deque[Delivery], most: int, room: int) -> list[Delivery]:
    """Take the first of ``arrived``: at most so many, until their bodies have filled ``room`` bytes."""
    front: list[Delivery] = []
    while arrived and len(front) < most and room > 0:
        front.append(arrived.popleft())
        room -= len(front[-1].body)
    return front


def as_bytes(body: bytes | bytearray | memoryview | str | None) -> bytes:
    """Return the bytes of a body as a client hands it over: absent when empty, text when decoded."""
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else bytes(body)
