"""Addresses of a RabbitMQ broker, and a client of its management API."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

import pika
import pika.exceptions

REQUEST_TIMEOUT_S = 30.0


class ManagementError(Exception):
    """Refusal by RabbitMQ's management API; the text has method, path, status and body."""


@dataclass(frozen=True)
class RabbitMQAddress:
    """Addresses of a RabbitMQ broker for AMQP and for management, and its administrator."""

    host: str
    port: int
    management_url: str
    user: str
    password: str

    @classmethod
    def parse(cls, broker_url: str, management_url: str) -> Self:
        """Return the server part of an ``amqp://`` URL, without its vhost."""
        parts = urlsplit(broker_url)
        return cls(
            host=parts.hostname or "127.0.0.1",
            port=5672 if parts.port is None else parts.port,
            management_url=management_url.rstrip("/"),
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
        )

    def url(self, vhost: str = "/") -> str:
        """Return an ``amqp://`` URL of one vhost, with the password."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@{self.host}:{self.port}/{quote(vhost, safe='')}"


@dataclass(frozen=True)
class QueueCounts:
    """Messages of one queue: waiting, and delivered without an acknowledgement yet."""

    ready: int
    unacknowledged: int


@dataclass(frozen=True)
class QuorumReplicas:
    """Nodes of a quorum queue by their names: the leader (None between leaders), and those that run."""

    leader: str | None
    online: frozenset[str]


@dataclass(frozen=True)
class BrokerConnection:
    """One open AMQP connection, by the name that ``ManagementClient.close_connection`` takes."""

    name: str
    vhost: str
    user: str


class ManagementClient:
    """Client of RabbitMQ's management API, with the calls that tests need.

    Every method raises ManagementError when the broker refuses and OSError when it is away.
    """

    def __init__(self, address: RabbitMQAddress) -> None:
        self._address = address
        self._base = urlsplit(address.management_url)
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def ping(self) -> None:
        """Ask for our user name, to check listener, login and API."""
        self._request("GET", "whoami")

    def create_vhost(self, name: str) -> None:
        """Create a vhost and give our user every permission in it."""
        self._request("PUT", f"vhosts/{_segment(name)}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        permissions = f"permissions/{_segment(name)}/{_segment(self._address.user)}"
        self._request("PUT", permissions, everything)

    def create_user(
        self, name: str, password: str, vhost: str, *, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Create a user with these permissions in ``vhost`` alone; return its ``amqp://`` URL.

        Permissions are regular expressions on names of exchanges and queues; an empty one allows nothing.
        """
        self._request("PUT", f"users/{_segment(name)}", {"password": password, "tags": ""})
        permissions = {"configure": configure, "write": write, "read": read}
        self._request("PUT", f"permissions/{_segment(vhost)}/{_segment(name)}", permissions)
        return replace(self._address, user=name, password=password).url(vhost)

    def limit_topics(self, name: str, vhost: str, exchange: str, *, write: str) -> None:
        """Let a user publish to ``exchange`` only with routing keys that the regular expression matches."""
        path = f"topic-permissions/{_segment(vhost)}/{_segment(name)}"
        self._request("PUT", path, {"exchange": exchange, "write": write, "read": ""})

    def import_definitions(self, definitions: Mapping[str, object]) -> None:
        """Import definitions of users, rights, exchanges, queues, bindings and policies."""
        self._request("POST", "definitions", dict(definitions))

    def definitions_of(self, vhost: str) -> dict[str, Any]:
        """Return exchanges, queues, bindings and policies of a vhost, as they can be imported again."""
        found: dict[str, Any] = self._request("GET", f"definitions/{_segment(vhost)}")
        return found

    def as_user(self, user: str, password: str) -> ManagementClient:
        """Return a client of the same API as another user."""
        return ManagementClient(replace(self._address, user=user, password=password))

    def take(self, vhost: str, queue: str) -> Any:
        """Take a message of ``queue`` through the API."""
        path = f"queues/{_segment(vhost)}/{_segment(queue)}/get"
        return self._request("POST", path, {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"})

    def delete_queue(self, vhost: str, queue: str) -> None:
        """Delete ``queue`` through the API."""
        self._request("DELETE", f"queues/{_segment(vhost)}/{_segment(queue)}")

    def delete_user(self, name: str) -> None:
        """Delete a user; its open connections stay."""
        self._request("DELETE", f"users/{_segment(name)}")

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with its queues, and close the connections to it."""
        self._request("DELETE", f"vhosts/{_segment(name)}")

    def set_policy(
        self,
        vhost: str,
        name: str,
        *,
        pattern: str,
        definition: Mapping[str, object],
        apply_to: Literal["queues", "exchanges", "all"] = "queues",
        priority: int = 0,
    ) -> None:
        """Create or replace a policy; ``pattern`` is a regular expression on queue names."""
        body: dict[str, object] = {"pattern": pattern, "definition": dict(definition)}
        body |= {"apply-to": apply_to, "priority": priority}
        self._request("PUT", f"policies/{_segment(vhost)}/{_segment(name)}", body)

    def queue_depth(self, vhost: str, queue: str) -> int:
        """Messages ready in a queue now, by a passive declaration.

        Exact, but for the first second after ``resume``: a quorum queue that still replays its
        log counts low, so wait for the number you expect. Raises
        pika.exceptions.ChannelClosedByBroker when there is no such queue.
        """
        with contextlib.closing(connected(self._address.url(vhost))) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            return int(declared.method.message_count)

    def queue_depths(self, vhost: str) -> dict[str, QueueCounts]:
        """Depths of all queues of a vhost by name; a quorum queue's is half a second behind."""
        # Asked for totals alone, the broker counts now instead of showing its last sample.
        totals = "disable_stats=true&enable_queue_totals=true"
        queues: list[dict[str, Any]] = self._request("GET", f"queues/{_segment(vhost)}?{totals}")
        return {
            queue["name"]: QueueCounts(
                ready=int(queue.get("messages_ready", 0)),
                unacknowledged=int(queue.get("messages_unacknowledged", 0)),
            )
            for queue in queues
        }

    def quorum_queues(self, vhost: str) -> dict[str, QuorumReplicas]:
        """Replicas of all quorum queues of a vhost by name, as the broker sees them now."""
        queues: list[dict[str, Any]] = self._request("GET", f"queues/{_segment(vhost)}?disable_stats=true")
        return {
            queue["name"]: QuorumReplicas(queue.get("leader"), frozenset(queue.get("online", ())))
            for queue in queues
            if queue["type"] == "quorum"
        }

    def rebalance_queues(self) -> None:
        """Spread the leaders of queues over the nodes; the broker does it afterwards."""
        self._request("POST", "rebalance/queues", {})

    def list_connections(self, vhost: str | None = None) -> list[BrokerConnection]:
        """Open AMQP connections, of one vhost where named; about a second behind."""
        path = "connections" if vhost is None else f"vhosts/{_segment(vhost)}/connections"
        connections: list[dict[str, Any]] = self._request("GET", path)
        # A connection shows up with a name only before its other facts have been collected.
        return [
            BrokerConnection(entry["name"], entry["vhost"], entry["user"])
            for entry in connections
            if "vhost" in entry and "user" in entry
        ]

    def close_connection(self, name: str, reason: str = "closed by a test") -> None:
        """Close one connection from the broker's side (the client sees CONNECTION_FORCED)."""
        self._request("DELETE", f"connections/{_segment(name)}", headers={"X-Reason": reason})

    def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        payload = None if body is None else json.dumps(body)
        full_path = f"{self._base.path}/api/{path}"
        with contextlib.closing(self._open()) as connection:
            connection.request(method, full_path, payload, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            content = response.read().decode()
        if response.status >= 400:
            raise ManagementError(f"{method} {full_path}: {response.status} {content}")
        return json.loads(content) if content else None

    def _open(self) -> http.client.HTTPConnection:
        secure = self._base.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._base.hostname or "", self._base.port, timeout=REQUEST_TIMEOUT_S)


def _segment(name: str) -> str:
    return quote(name, safe="")


def connected(url: str) -> Any:
    """Return a pika connection with bounded waits."""
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.stack_timeout = REQUEST_TIMEOUT_S
    parameters.blocked_connection_timeout = REQUEST_TIMEOUT_S
    return pika.BlockingConnection(parameters)
