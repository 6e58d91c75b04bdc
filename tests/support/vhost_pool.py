"""Pool of virtual hosts that tests use in turn: emptied where possible, else created anew.

The broker spends 80 ms of processor time on a virtual host with the topology, most of it on quorum queues.
One is used again only if it is as it was made: the same definitions, no connection, no consumer, no message.
A message that somebody was given counts as a consumer: it is back in its queue, or the virtual host goes.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from pika.exceptions import AMQPError

from tests.support.provision import RabbitMQServer
from tests.support.rabbitmq_management import ManagementError, connected
from worker.broker import BILLING, open_link

#: What a killed process was about is over. The broker lists a connection up to a second after its beginning.
REST_S, LISTED_S = 0.1, 1.5
#: Each one costs the broker 0.3 % of a core, used or not.
MOST = 3
_TIME_WAIT, _LISTEN = "06", "0A"


class VhostPool:
    """Pool of virtual hosts with the topology on ``rabbitmq``, for one process."""

    def __init__(self, rabbitmq: RabbitMQServer) -> None:
        self._rabbitmq = rabbitmq
        self._free: deque[tuple[float, str]] = deque()
        self._definitions: dict[str, Any] | None = None

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """Yield the name of a virtual host that has the topology, and nothing in it, for one test."""
        name = self._rested() or self._made()
        try:
            yield name
        finally:
            self._free.append((time.monotonic(), name))
            while len(self._free) > MOST:
                self._delete(self._free.popleft()[1])

    def close(self) -> None:
        """Delete the remaining virtual hosts."""
        while self._free:
            self._delete(self._free.popleft()[1])

    def _made(self) -> str:
        name = f"test_{uuid4().hex[:12]}"
        self._rabbitmq.management.create_vhost(name)
        with contextlib.closing(open_link(self._rabbitmq.address.url(name))) as link:
            link.declare(BILLING)
        if self._definitions is None:
            self._definitions = self._defined(name)
        return name

    def _delete(self, name: str) -> None:
        with contextlib.suppress(ManagementError):  # its test may have deleted it
            self._rabbitmq.management.delete_vhost(name)

    def _rested(self) -> str | None:
        """Return one that was used and is as it was made; delete the others that are due."""
        rest_s = LISTED_S if has_connections(self._rabbitmq.address.port) else REST_S
        while self._free and self._free[0][0] < time.monotonic() - rest_s:
            name = self._free.popleft()[1]
            if self._is_as_made(name):
                return name
            self._delete(name)
        return None

    def _is_as_made(self, name: str) -> bool:
        try:
            return (
                not self._rabbitmq.management.list_connections(name)
                and self._defined(name) == self._definitions
                and self._is_emptied(name)
            )
        except (ManagementError, AMQPError):
            return False

    def _is_emptied(self, name: str) -> bool:
        """Empty the queues; return True if they are those of the topology and nobody has any of it."""
        queues = sorted(self._rabbitmq.management.queue_depths(name))
        if queues != sorted(queue["name"] for queue in (self._definitions or {})["queues"]):
            return False
        with contextlib.closing(connected(self._rabbitmq.address.url(name))) as connection:
            channel = connection.channel()
            if any(channel.queue_declare(queue, passive=True).method.consumer_count for queue in queues):
                return False
            for queue in queues:
                channel.queue_purge(queue)
            return True

    def _defined(self, name: str) -> dict[str, Any]:
        """Return what is defined in a virtual host, in one order."""
        found = self._rabbitmq.management.definitions_of(name)
        lists = ("parameters", "policies", "queues", "exchanges", "bindings")
        return {kind: sorted(found[kind], key=repr) for kind in lists}


def has_connections(port: int) -> bool:
    """Return True where this machine has a connection to ``port``, or cannot tell."""
    try:
        tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return True
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    end = f":{port:04X}"
    return any(
        (local.endswith(end) or remote.endswith(end)) and state not in (_TIME_WAIT, _LISTEN)
        for _, local, remote, state, *_ in rows
    )
