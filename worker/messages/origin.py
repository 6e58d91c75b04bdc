"""Origin of a delivery: who sent it first, as far as the broker vouches for it."""

from dataclasses import replace
from typing import TypeVar

from schemas.dead_letter import SENDER_HEADER
from worker.broker import Outgoing

_Message = TypeVar("_Message", bound=Outgoing)


def republished(message: _Message, *, sender: str | None, sent_as: str | None) -> _Message:
    """Return ``message`` for ``sent_as`` to publish again, with its first ``sender`` beside it.

    ``sender`` is the broker user that sent it first, None for an anonymous one. ``sent_as`` is the user of
    the connection that publishes: workers believe the header where it is one of the worker users.
    """
    properties = {name: value for name, value in message.properties.items() if name != "user_id"}
    if sent_as is not None:
        properties["user_id"] = sent_as
    return replace(message, properties=properties, headers={**message.headers, SENDER_HEADER: sender or ""})
