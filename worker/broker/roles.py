"""Roles of broker users with the least rights that each needs, as data.

What a role may read is said at each queue (``Queue.readers``); what it may send, here. RabbitMQ's patterns
are regular expressions on names of exchanges and queues, and on routing keys.

No name may be both configured and written by one user: it would declare an exchange of that name, bind the
exchange of commands to it, and be asked for no topic permission any more.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from worker.broker.partitions import SUFFIX_PATTERN
from worker.broker.topology import Topology
from worker.errors import ConfigurationError

#: Queues that a user declares for itself: their names are this, a dot, the user, and anything behind a dot.
OwnQueues = Literal["billing.replies", "billing.notices"]

_DEFAULT_EXCHANGE = r"amq\.default"
_NOTHING = "^$"
#: A partition that may stand behind a type in a routing key, and behind a lane in the name of a queue.
_PARTITION = f"({SUFFIX_PATTERN})?"


@dataclass(frozen=True, slots=True)
class BrokerRole:
    """Rights of one kind of broker user.

    ``sends`` are patterns of the types that it publishes; where it ``has_bulk``, those of the bulk lane go
    there as well. A role that ``answers`` publishes to queues by their names, one that ``notifies`` to the
    exchange of notices; one that ``listens`` binds queues of its own to that exchange.
    """

    name: str
    sends: tuple[str, ...] = ()
    has_bulk: bool = False
    answers: bool = False
    notifies: bool = False
    listens: bool = False
    own_queues: OwnQueues | None = None
    tags: tuple[str, ...] = ()

    def may_send(self, pattern: str) -> bool:
        """Return True where this role may send all that ``pattern``, or a type, stands for."""
        return any(fnmatchcase(pattern, sent) for sent in self.sends)


#: Queries about one account or one reference, and about what is for sale.
_QUERIES = (
    "query.balance",
    "query.afford",
    "query.history",
    "query.usage",
    "query.operation",
    "query.catalog",
)

#: The users of an installation. An app charges, opens accounts and asks; it credits nothing.
ROLES = (
    BrokerRole("app", ("usage.*", "account.open", *_QUERIES), has_bulk=True, own_queues="billing.replies"),
    BrokerRole("gateway", ("payment.*", "subscription.*", "account.freeze")),
    BrokerRole("worker", ("account.settle",), answers=True, notifies=True),
    BrokerRole("reader", answers=True),
    BrokerRole(
        "ops",
        ("account.*", "credit.*", "payment.*", "query.*", "subscription.*", "usage.*"),
        has_bulk=True,
        own_queues="billing.replies",
        tags=("management",),  # sees this vhost's delivery limits
    ),
    BrokerRole("monitor", tags=("monitoring",)),
)
#: Roles for users that not every installation has: a pipeline that charges, and a listener to notices.
FURTHER_ROLES = (
    BrokerRole("producer", ("usage.*",), has_bulk=True, own_queues="billing.replies"),
    BrokerRole("listener", listens=True, own_queues="billing.notices"),
)


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """User of the broker, in a role."""

    name: str
    role: BrokerRole

    @classmethod
    def parse(cls, text: str) -> "BrokerUser":
        """Return the user of ``ROLE`` or ``ROLE=NAME``. Raises ConfigurationError."""
        role, _, name = text.partition("=")
        known = {each.name: each for each in (*ROLES, *FURTHER_ROLES)}
        if role not in known:
            raise ConfigurationError(f"{role!r} is no role: one of {', '.join(known)}")
        if not _NAME.fullmatch(name or role):
            raise ConfigurationError(
                f"{name!r} is no name for a broker user: 1 to 64 letters, digits, dots, dashes, underscores"
            )
        return cls(name or role, known[role])


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: The users of an installation, each named after its role.
USERS = tuple(BrokerUser(role.name, role) for role in ROLES)


def require_apart(users: Sequence[BrokerUser]) -> None:
    """Raise ConfigurationError where two users have one name, or one could use the other's queues."""
    names = [user.name for user in users]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"the user {name} is named twice: each has one role and a name of its own"
            )
        if longer := next((other for other in names if other.startswith(f"{name}.")), None):
            raise ConfigurationError(
                f"{name} could read the queues of {longer}: give no user a name that is another's with a dot "
                "and more"
            )


@dataclass(frozen=True, slots=True)
class BrokerRights:
    """Patterns of what a user may configure, write and read."""

    configure: str
    write: str
    read: str


def rights_of(user: BrokerUser, topology: Topology) -> BrokerRights:
    """Return the rights of ``user`` on the names of exchanges and queues."""
    role = user.role
    own = [] if role.own_queues is None else [_own(role.own_queues, user.name)]
    written = [
        *([_DEFAULT_EXCHANGE] if role.answers else []),
        *([re.escape(topology.exchange)] if role.sends else []),
        *([re.escape(topology.bulk_exchange)] if role.has_bulk else []),
        *([re.escape(topology.events)] if role.notifies else []),
    ]
    lanes = [queue.name for queue in topology.work if role.name in queue.readers]
    others = [queue.name for queue in topology.queues_apart if role.name in queue.readers]
    journal = [topology.journal] if role.name in topology.journal_readers else []
    read = [
        *(re.escape(lane) + _PARTITION for lane in lanes),
        *(re.escape(name) for name in (*others, *journal)),
    ]
    if role.listens:  # it publishes nothing: see the head of this module
        return BrokerRights(_any(own), _any(own), _any([*own, re.escape(topology.events)]))
    return BrokerRights(_any(own), _any(written), _any([*read, *own]))


def sendable_keys(role: BrokerRole, topology: Topology, exchange: str) -> str:
    """Return the pattern of the routing keys with which ``role`` may publish to a command exchange."""
    sent: Iterable[str] = role.sends
    if exchange == topology.bulk_exchange:
        keys = topology.bulk.routing_keys
        sent = [
            pattern for pattern in role.sends if role.has_bulk and any(fnmatchcase(pattern, k) for k in keys)
        ]
    return _any(_key(pattern) for pattern in sent)


def sender_rules(users: Sequence[BrokerUser]) -> dict[str, list[str]]:
    """Return ``BILLING_SENDERS`` for ``users``: who may send what a topic permission lets them publish."""
    patterns = sorted({pattern for user in users for pattern in user.role.sends})
    return {pattern: [user.name for user in users if user.role.may_send(pattern)] for pattern in patterns}


def own_users(users: Sequence[BrokerUser]) -> list[str]:
    """Return ``BILLING_WORKER_USERS`` for ``users``: those that publish again what others have sent."""
    return [user.name for user in users if user.role.name in {"worker", "ops"}]


def _own(prefix: str, user: str) -> str:
    return rf"{re.escape(prefix)}\.{re.escape(user)}(\..*)?"


def _key(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".+") + ("" if "*" in pattern else _PARTITION)


def _any(patterns: Iterable[str]) -> str:
    alternatives = "|".join(patterns)
    return f"^({alternatives})$" if alternatives else _NOTHING
