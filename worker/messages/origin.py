"""Origin of a delivery: who sent it and by which way, as far as the broker vouches for it.

The broker vouches for the user that publishes a message (``user_id``) and for no header. A message that one
of our own processes publishes again names its first sender in ``x-billing-sender``: that counts where the
broker vouches for a worker user, and nowhere else.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from schemas.dead_letter import HELD_HEADER, REPLAY_DEAD_LETTER_HEADER, SENDER_HEADER
from worker.broker import Delivery, Outgoing, Topology
from worker.broker.partitions import without_partition

#: Header that the broker sets on what it has dead-lettered.
DEATHS = "x-death"


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a delivery. None stands for an anonymous user.

    ``sender`` sent the message first, ``publisher`` published this copy. They differ only for a copy that one
    of our own processes published (``is_republished``). ``is_ours`` is True where a worker user is the
    publisher: headers of ours count there alone. ``is_forged`` is True where somebody else names a sender.
    """

    sender: str | None
    publisher: str | None
    is_ours: bool = False
    is_republished: bool = False
    is_forged: bool = False

    @property
    def users(self) -> tuple[str | None, ...]:
        """The users whose rights count, all of them: an operator's replay gives nobody a right."""
        return (self.sender,) if self.sender == self.publisher else (self.sender, self.publisher)


def origin_of(delivery: Delivery, worker_users: Collection[str | None]) -> Origin:
    """Return the origin of a delivery."""
    publisher = delivery.text("user_id")
    is_ours = publisher in worker_users
    if SENDER_HEADER not in delivery.headers:
        return _own(publisher, is_ours)
    if not is_ours:
        return Origin(publisher, publisher, is_forged=True)
    named = delivery.headers[SENDER_HEADER]
    sender = named if isinstance(named, str) and named else None
    return Origin(sender, publisher, is_ours=True, is_republished=True)


@lru_cache(maxsize=10_000)
def _own(user: str | None, is_ours: bool) -> Origin:  # noqa: FBT001 - a value, not a mode
    """Return the origin of a message that nobody has published again; one for all messages of a user."""
    return Origin(user, user, is_ours)


def is_replay(delivery: Delivery, origin: Origin) -> bool:
    """Return True for a dead letter that one of our own processes replays."""
    return origin.is_ours and REPLAY_DEAD_LETTER_HEADER in delivery.headers


def is_returned(delivery: Delivery, origin: Origin) -> bool:
    """Return True for a message that a worker has held while its type was paused, and returns to its lane.

    Its sender had the right when the worker held it. It comes by the default exchange, to which nobody but
    workers and readers may publish, and readers are not believed.
    """
    return origin.is_republished and not delivery.exchange and HELD_HEADER in delivery.headers


def wrong_way(delivery: Delivery, origin: Origin, topology: Topology) -> str | None:
    """Return the way by which a message must not come, for people; None where it came as it should.

    Rights to publish are granted on the exchanges of commands. Who binds an exchange of his own to one,
    publishes to a queue itself, or lets his own queue dead-letter into one, has walked past them.
    """
    if DEATHS in delivery.headers:
        return "out of another queue, by its dead-letter exchange"
    if delivery.exchange in topology.command_exchanges or origin.is_republished:
        return None
    return f"by the exchange {delivery.exchange!r}" if delivery.exchange else "by the default exchange"


def is_key_of(routing_key: str, type_: str) -> bool:
    """Return True for the type itself, also with a partition behind it, as in ``usage.deduct.07``."""
    return type_ in (routing_key, without_partition(routing_key))


_Message = TypeVar("_Message", bound=Outgoing)


def republished(message: _Message, *, sender: str | None, sent_as: str | None) -> _Message:
    """Return ``message`` for ``sent_as`` to publish again, with its first ``sender`` beside it.

    ``sender`` is the broker user that sent it first, None for an anonymous one. ``sent_as`` is the user of
    the connection that publishes: workers believe the header where it is one of the worker users. A
    ``reply_to`` that names a queue of ``sent_as`` is dropped: the first sender may not name that queue.
    """
    dropped = {"user_id", "reply_to"} if _steers_to(message, sender, sent_as) else {"user_id"}
    properties = {name: value for name, value in message.properties.items() if name not in dropped}
    if sent_as is not None:
        properties["user_id"] = sent_as
    return replace(message, properties=properties, headers={**message.headers, SENDER_HEADER: sender or ""})


def _steers_to(message: Outgoing, sender: str | None, sent_as: str | None) -> bool:
    """Return True where the first sender names a reply queue of ``sent_as``, whatever it begins with."""
    if sent_as is None or sender == sent_as:
        return False
    return f".{sent_as}." in f"{message.properties.get('reply_to', '')}."
