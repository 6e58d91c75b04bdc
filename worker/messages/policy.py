"""Message-handling policy: limits, tries, reply addresses and senders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from schemas import ImportAccount, Limits, type_of
from worker.broker import BILLING, DIRECT_REPLY_TO, Topology

#: Number of earlier deliveries from which a message may be poison: it is tried on record.
TRIAL_AFTER = 3
#: Number of crashes in trials alone after which a message becomes a dead letter.
GIVE_UP_AFTER = 3

#: The ``app_id`` of the scheduler's messages. Nobody waits for a reply to one: it gets none unless it names
#: a ``reply_to``.
SCHEDULER_APP_ID = "billing-scheduler"


#: Types that only a rule which names them allows: they came after the rules of today's operators.
_NAMED_ONLY = frozenset({type_of(ImportAccount)})


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of messages, tries of a fault, addresses of replies, and who may send what.

    ``senders`` maps a pattern of types to the broker users that may send them, or to users with the prefix
    that their references must begin with; of several patterns that match, the longest holds, and a type that
    none matches may come from anyone. Where there are any, an import must be named itself: a pattern that was
    written for other types allows nobody to give credit. ``reply_to_prefixes`` are beginnings of queue names
    that any message may name, whoever sends it.
    """

    limits: Limits = field(default_factory=Limits)
    tries: int = 3
    reply_queue: str = "billing.replies"
    reply_to_prefixes: tuple[str, ...] = ()
    senders: Mapping[str, Sequence[str] | Mapping[str, str]] = field(default_factory=dict)
    topology: Topology = BILLING
    worker_users: frozenset[str | None] = frozenset()

    def allows_reply_to(self, reply_to: str, sender: str | None) -> bool:
        """Return whether a message of ``sender`` may name ``reply_to``.

        ``sender`` is the user that the broker vouches for, None for an anonymous message. The default
        exchange reaches every queue: all other names would steer replies into queues of others.
        """
        if reply_to == self.reply_queue or reply_to.startswith(DIRECT_REPLY_TO):
            return True
        own = f"{self.reply_queue}.{sender}"
        is_own = sender is not None and (reply_to == own or reply_to.startswith(f"{own}."))
        return is_own or reply_to.startswith(self.reply_to_prefixes)

    def prefix_of_references(self, type_: str, sender: str | None) -> str | None:
        """Return the prefix of ``sender``'s references; None where it may not send ``type_`` at all."""
        patterns = [pattern for pattern in self.senders if fnmatchcase(type_, pattern)]
        if type_ in _NAMED_ONLY and self.senders:
            patterns = [pattern for pattern in patterns if pattern == type_]
            if not patterns:
                return None
        if not patterns:
            return ""
        users = self.senders[max(patterns, key=len)]
        if sender is None or sender not in users:
            return None
        return users[sender] if isinstance(users, Mapping) else ""
