"""The bridge: verify, parse, map, publish.

It keeps no state: an event that comes again has the same references, and is applied once.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from schemas import Command, Limits, Malformed, WantedReplies, decode
from worker.gateways.mapped import Mapped, Reason
from worker.gateways.signatures import SignatureScheme

log = logging.getLogger(__name__)

#: Largest body of a webhook, in bytes: an invoice with hundreds of lines has a fifth of it.
WEBHOOK_MAX_BYTES: Final = 1024 * 1024
_OTHER_TYPE: Final = "other"


class PublishesCommands(Protocol):
    """Publisher that returns once all commands are confirmed."""

    def publish(self, commands: Sequence[Command]) -> None:
        """Publish ``commands``. Raises TransientError or ConfigurationError where not all are confirmed."""
        ...


class UnreadableBodyError(Exception):
    """A verified body that is no JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Endpoint of one gateway: its signatures, its mapping, and the types that the mapping knows."""

    gateway: str
    scheme: SignatureScheme
    secrets: Sequence[str]
    tolerance_s: int
    map: Callable[[Any], Mapped]
    type_key: str
    types: Collection[str]

    def __repr__(self) -> str:
        return f"Endpoint({self.gateway})"


@dataclass(frozen=True, slots=True)
class Received:
    """Event that was verified and mapped; ``type`` is "other" for one that the mapping does not know."""

    type: str
    mapped: Mapped


class Bridge:
    """Bridge from gateways to the broker. ``limits`` are the workers': what they refuse is not published."""

    def __init__(
        self,
        publisher: PublishesCommands,
        *,
        limits: Limits,
        clock: Callable[[], datetime],
        replies: WantedReplies = "all",
        seconds: Callable[[], float] = time.time,
    ) -> None:
        self._publisher, self._limits, self._clock = publisher, limits, clock
        self._replies, self._seconds = replies, seconds

    def receive(self, endpoint: Endpoint, header: str | None, body: bytes) -> Received:
        """Verify a webhook and map it; the signature covers the bytes as they came.

        Raises SignatureError, and UnreadableBodyError for a verified body that is no JSON object.
        """
        endpoint.scheme.verify(
            body, header, endpoint.secrets, now=self._seconds(), tolerance_s=endpoint.tolerance_s
        )
        event = _parsed(body)
        type_ = event.get(endpoint.type_key)
        known = type_ if isinstance(type_, str) and type_ in endpoint.types else _OTHER_TYPE
        return Received(known, self._welcome(endpoint.map(event)))

    def publish(self, commands: Sequence[Command]) -> None:
        """Publish ``commands``; return once the broker has all. Raises TransientError, ConfigurationError."""
        self._publisher.publish(commands)

    def _welcome(self, mapped: Mapped) -> Mapped:
        """Return commands that a worker takes, or the reason why it would not."""
        commands = tuple(self._with_replies(command) for command in mapped.commands)
        for command in commands:
            decoded = decode(command.to_json(), now=self._clock(), limits=self._limits)
            if isinstance(decoded, Malformed):
                text = f"a worker would refuse {command.reference_id}: {decoded.message}"
                return Mapped.nothing(Reason.MALFORMED, text)
        return replace(mapped, commands=commands)

    def _with_replies(self, command: Command) -> Command:
        if self._replies == "all":
            return command
        return command.model_copy(update={"replies": self._replies})


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableBodyError("the body is no JSON, though its signature is good") from None
    if not isinstance(event, dict):
        raise UnreadableBodyError("the body is JSON, and no object")
    return event
