"""Message-handling policy: limits, tries, reply addresses and senders."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas import Limits
from worker.broker import BILLING, DIRECT_REPLY_TO, Topology
from worker.messages.rights import CREDIT_TYPES, SETTLE, SenderRules, Users, rules_by_type

#: Number of earlier deliveries from which a message may be poison: it is tried on record.
TRIAL_AFTER = 3
#: Number of crashes in trials alone after which a message becomes a dead letter.
GIVE_UP_AFTER = 3

#: The ``app_id`` of the scheduler's messages. Nobody waits for a reply to one: it gets none unless it names
#: a ``reply_to``.
SCHEDULER_APP_ID = "billing-scheduler"


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of messages, tries of a fault, addresses of replies, and who may send what.

    ``senders`` maps a pattern of types to the broker users that may send them, or to users with the prefix
    that their references must begin with (see ``worker.messages.rights``). ``reply_to_prefixes`` are
    beginnings of queue names that any message may name, whoever sends it.

    ``user`` is the broker user that publishes here, and ``worker_users`` are those of our own processes: what
    they publish may carry headers of ours. None is the anonymous user of a broker that vouches for nobody.
    """

    limits: Limits = field(default_factory=Limits)
    tries: int = 3
    reply_queue: str = "billing.replies"
    reply_to_prefixes: tuple[str, ...] = ()
    senders: SenderRules = field(default_factory=dict)
    topology: Topology = BILLING
    user: str | None = None
    worker_users: frozenset[str | None] = frozenset()
    _rules: Mapping[str, Users] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up once: every message is compared with them.
        object.__setattr__(self, "_rules", rules_by_type(self.senders))

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
        users = self._rules.get(type_)
        if users is None or (type_ == SETTLE and sender in self.worker_users):
            return ""
        if sender is None or sender not in users:
            return None
        return users[sender] if isinstance(users, Mapping) else ""

    @property
    def credit_from_anyone(self) -> list[str]:
        """The types that give credit and that anyone may send."""
        return [type_ for type_ in CREDIT_TYPES if type_ not in self._rules]
