"""What the worker is told and does not decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas import Limits
from worker.broker import BILLING, Topology

#: From so many earlier deliveries on a message is suspected of bringing workers down: it is tried on record.
SUSPECT_AFTER = 3
#: After so many crashes while it was tried alone it is a dead letter.
GIVE_UP_AFTER = 3

#: The ``app_id`` of what the scheduler sends. Nobody waits for an answer to it: there is none unless it names
#: a ``reply_to``.
SCHEDULER_APP_ID = "billing-scheduler"


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of messages, tries of a fault, addresses of replies, and who may send what.

    ``senders`` maps a pattern of types to the broker users that may send them; of several patterns that
    match, the longest holds, and a type that none matches may come from anyone. ``reply_to_prefixes`` are
    the beginnings of queue names a request may ask its reply to be sent to.
    """

    limits: Limits = field(default_factory=Limits)
    tries: int = 3
    reply_queue: str = "billing.replies"
    reply_to_prefixes: tuple[str, ...] = ("billing.replies",)
    senders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    topology: Topology = BILLING
