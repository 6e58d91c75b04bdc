"""Senders of messages, as their properties name them, in a form that every store keeps."""

from collections.abc import Collection
from functools import lru_cache

from worker.broker import Delivery
from worker.ledger.senders import Sender
from worker.messages.origin import origin_of

#: Length of a short string of AMQP in bytes: only the embedded broker carries more.
_LENGTH_MAX = 255


def sender_in(delivery: Delivery, worker_users: Collection[str | None]) -> Sender:
    """Return the first sender of a delivery: the user for whom the broker vouches, and its ``app_id``."""
    return _sender(origin_of(delivery, worker_users).sender, delivery.text("app_id"))


@lru_cache(maxsize=10_000)
def _sender(user_id: str | None, app_id: str | None) -> Sender:
    return Sender(_readable(user_id), _readable(app_id))


def _readable(text: str | None) -> str:
    """Return ``text`` without characters that can't be seen or stored; a sign stands for each of them."""
    shown = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text or "")
    return "".join(shown)[:_LENGTH_MAX]
