"""RabbitMQ's definitions of an installation: users with their rights, exchanges, queues and policies.

They are what ``rabbitmqctl import_definitions`` and ``load_definitions`` take. No password is in them: of
each there is a salted hash, or none, and then nobody can log in with one.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.broker.roles import BrokerUser, require_apart, rights_of, sendable_keys
from worker.broker.topology import JournalLimits, Topology

_HASHING = "rabbit_password_hashing_sha256"
_SALT_BYTES = 4

Definitions = dict[str, Any]


def password_hash(password: str, salt: bytes) -> str:
    """Return RabbitMQ's hash of ``password``: four bytes of salt, then SHA-256 of both, in Base64."""
    if len(salt) != _SALT_BYTES:
        raise ValueError(f"a salt has {_SALT_BYTES} bytes, not {len(salt)}")
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(
    topology: Topology,
    users: Sequence[BrokerUser],
    *,
    vhost: str,
    hashes: Mapping[str, str] | None,
    journal: JournalLimits | None = None,
) -> Definitions:
    """Return the definitions of ``topology`` and ``users`` in ``vhost``.

    ``hashes`` are those of the users' passwords, by name; a user without one can't log in with a password.
    None leaves the users themselves out, for a broker that has them. With ``journal`` its stream is among the
    queues. Raises ConfigurationError where two
    users are not apart.
    """
    require_apart(users)
    made = {} if hashes is None else {"users": [_user(user, hashes.get(user.name, "")) for user in users]}
    return {
        "vhosts": [{"name": vhost}],
        **made,
        "permissions": [_permission(user, topology, vhost) for user in users],
        "topic_permissions": [
            _topic_permission(user, topology, vhost, exchange)
            for user in users
            for exchange in topology.command_exchanges
        ],
        "policies": list(_policies(topology, vhost)),
        "exchanges": [_exchange(name, vhost) for name in topology.exchanges],
        "queues": [_queue(name, arguments, vhost) for name, arguments in _queues(topology, journal)],
        "bindings": [
            _binding(source, key, queue, vhost)
            for source, key, queue in _bindings(topology, has_journal=journal is not None)
        ],
    }


def _user(user: BrokerUser, hashed: str) -> Definitions:
    return {
        "name": user.name,
        "password_hash": hashed,
        "hashing_algorithm": _HASHING,
        "tags": list(user.role.tags),
    }


def _permission(user: BrokerUser, topology: Topology, vhost: str) -> Definitions:
    rights = rights_of(user, topology)
    return {
        "user": user.name,
        "vhost": vhost,
        "configure": rights.configure,
        "write": rights.write,
        "read": rights.read,
    }


def _topic_permission(user: BrokerUser, topology: Topology, vhost: str, exchange: str) -> Definitions:
    write = sendable_keys(user.role, topology, exchange)
    return {"user": user.name, "vhost": vhost, "exchange": exchange, "write": write, "read": "^$"}


def _policies(topology: Topology, vhost: str) -> Iterator[Definitions]:
    for name, (pattern, definition) in topology.policies().items():
        yield {
            "vhost": vhost,
            "name": name,
            "pattern": pattern,
            "apply-to": "queues",
            "definition": dict(definition),
            "priority": 0,
        }


def _exchange(name: str, vhost: str) -> Definitions:
    return {
        "name": name,
        "vhost": vhost,
        "type": "topic",
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _queues(topology: Topology, journal: JournalLimits | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for queue in topology.queues:
        yield queue.name, queue.arguments
    if journal is not None:
        yield topology.journal, journal.arguments


def _queue(name: str, arguments: Mapping[str, Any], vhost: str) -> Definitions:
    return {
        "name": name,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": dict(arguments),
    }


def _bindings(topology: Topology, *, has_journal: bool) -> Iterator[tuple[str, str, str]]:
    """Yield exchange, routing key and queue of each binding."""
    for queue in topology.queues:
        for key in queue.routing_keys:
            yield queue.exchange or topology.exchange, key, queue.name
    if has_journal:
        for exchange, key in topology.journal_bindings:
            yield exchange, key, topology.journal


def _binding(source: str, key: str, queue: str, vhost: str) -> Definitions:
    return {
        "source": source,
        "vhost": vhost,
        "destination": queue,
        "destination_type": "queue",
        "routing_key": key,
        "arguments": {},
    }
