"""kombu's embedded transport, for a first try without a broker: queues are rows in a SQLite file.

It has no confirms and no redelivery after a kill, and of bindings only the topology's own and those of
listeners, which are rows too. The guarantees of the README are RabbitMQ's.
"""

import sqlite3
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from json import dumps, loads
from queue import Empty
from time import monotonic, sleep
from typing import Any

import kombu
from kombu.transport import sqlalchemy
from sqlalchemy import bindparam, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from worker.broker.deliveries import Delivery, as_bytes, front_of
from worker.broker.journal import NO_JOURNAL
from worker.broker.outgoing import DIRECT_REPLY_TO, Outgoing, PublishResult
from worker.broker.partitions import NO_PARTITIONS
from worker.broker.protocols import Link
from worker.broker.sharing import BatchTurns, BulkShare, Waiting
from worker.broker.topology import BILLING, JournalLimits, Topology
from worker.errors import BrokerUnavailableError, ConfigurationError

_BATCH = 500
_INDEX = text("CREATE INDEX IF NOT EXISTS kombu_message_in_order ON kombu_message (queue_id, id)")
_LISTENERS = text("CREATE TABLE IF NOT EXISTS billing_listener (queue TEXT PRIMARY KEY)")


class _Unsynced(sqlite3.Connection):
    """A connection that waits for no disk: a commit for each message would cost an fsync each.

    A crash of the machine loses messages of a first try only; the ledger's own file is synced.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for pragma in ("journal_mode = WAL", "synchronous = OFF"):
            self.execute(f"PRAGMA {pragma}")


class _Channel(sqlalchemy.Channel):  # type: ignore[misc]  # kombu has no types
    """kombu's channel with a transaction a batch, where kombu's own has three and a scan a message."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.room: Callable[[str], int] = lambda _queue: _BATCH  #: how many messages a queue may deliver
        self._ids: dict[str, int] = {}
        self._unsent: list[dict[str, Any]] = []
        self._engine, _ = self._open()
        with self._engine.begin() as connection:
            connection.execute(_INDEX)
            connection.execute(_LISTENERS)

    def listeners(self) -> list[str]:
        """The queues that get every notice, whichever process made them."""
        with self._engine.connect() as connection:
            return list(connection.execute(text("SELECT queue FROM billing_listener")).scalars())

    def add_listener(self, queue: str) -> None:
        """Remember ``queue`` for links that open later."""
        with self._engine.begin() as connection:
            connection.execute(
                text("INSERT OR IGNORE INTO billing_listener VALUES (:queue)"), {"queue": queue}
            )

    def remove_listener(self, queue: str) -> None:
        """Forget ``queue``, whether it was one or not."""
        with self._engine.begin() as connection:
            connection.execute(text("DELETE FROM billing_listener WHERE queue = :queue"), {"queue": queue})

    def flush(self) -> None:
        """Store what has been put."""
        unsent, self._unsent = self._unsent, []
        if unsent:
            with self._engine.begin() as connection:
                connection.execute(insert(self.message_cls.__table__), unsent)

    def close(self) -> None:
        """Put back what is not acknowledged."""
        super().close()
        self.flush()

    def _put(self, queue: str, payload: Any, **_options: Any) -> None:
        self._unsent.append({"queue_id": self._id(queue), "payload": dumps(payload)})

    def _get_many(self, queues: Sequence[str], timeout: float | None = None) -> None:
        """Deliver what waits, as much as the prefetch allows; kombu calls it in place of ``_get``."""
        del timeout
        delivered = 0
        for queue in queues:
            for payload in self._take(queue) if self._is_waiting(queue) else ():
                self.connection._deliver(loads(payload), queue)  # noqa: SLF001 - what kombu's channels do
                delivered += 1
        if not delivered:
            raise Empty

    def _is_waiting(self, queue: str) -> bool:
        """Return True for a queue with messages. Takes no write lock: a poll blocks nobody."""
        table = self.message_cls.__table__.c
        with self._engine.connect() as connection:
            found = connection.execute(select(table.id).where(table.queue_id == self._id(queue)).limit(1))
            return found.first() is not None

    def _take(self, queue: str) -> list[str]:
        most = min(self.room(queue), _BATCH)
        if most < 1:
            return []
        table = self.message_cls.__table__
        first = select(table.c.id, table.c.payload).where(table.c.queue_id == self._id(queue))
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            rows = connection.execute(first.order_by(table.c.id).limit(most)).all()
            if rows:
                connection.execute(
                    delete(table).where(table.c.id == bindparam("taken")), [{"taken": row.id} for row in rows]
                )
        return [row.payload for row in rows]

    def _id(self, queue: str) -> int:
        if queue not in self._ids:
            self._ids[queue] = self._get_or_create(queue).id
            self.session.commit()
        return self._ids[queue]


class _Transport(sqlalchemy.Transport):  # type: ignore[misc]  # kombu has no types
    Channel = _Channel


class EmbeddedLink(Link):
    """A link to queues in a file; every process that opens it routes by the same topology."""

    def __init__(self, url: str, *, consume: Mapping[str, int]) -> None:
        self._connection = kombu.Connection(
            url.removeprefix("sqla+"),
            transport=_Transport,
            transport_options={"connect_args": {"timeout": 60, "factory": _Unsynced}},
        )
        # As a transport option it would reach SQLAlchemy, which refuses what it doesn't know.
        self._connection.transport.polling_interval = 0.02
        self._arrived: dict[str, deque[Delivery]] = {queue: deque() for queue in consume}
        self._most = dict(consume)
        self._turns = BatchTurns()
        self._consuming: set[str] = set()
        self._held: dict[Any, str] = {}  # the queue of each delivery that is not acknowledged, by its tag
        with _broker_errors():
            self._channel: Any = self._connection.channel()
            self.declare(BILLING)  # routes live in the process here, not in the broker
            for queue in self._channel.listeners():
                self._bind_listener(queue)
            self._channel.room = self._room
            for queue, prefetch in consume.items():
                if prefetch:
                    self._consume(queue)

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        with _broker_errors():
            if not self._waiting():
                self._drain(timeout_s)
            # What waits of bulk doesn't count: it must not keep the other queues from being looked at.
            while self._waiting(but=bulk) < most and self._drain(0):
                pass
        waiting = {
            queue: Waiting(len(arrived), partial(front_of, arrived))
            for queue, arrived in self._arrived.items()
        }
        return self._turns.batch_of(waiting, most, bulk)

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        # A queue that is named and does not exist is made. A direct reply is dropped.
        with _broker_errors():
            for message in messages:
                if message.exchange or not message.routing_key.startswith(DIRECT_REPLY_TO):
                    self._publish(message)
            self._channel.flush()
        return PublishResult(messages, [message for message in messages if not self._is_routed(message)])

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)
            self._held.pop(delivery.tag, None)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        self._most[queue] = most if give_back else max(most, self._most[queue])
        with _broker_errors():
            if queue in self._consuming and give_back:
                self._channel.basic_cancel(queue)
                self._consuming.discard(queue)
            if give_back:
                self._give_back(queue)
            if most and queue not in self._consuming:
                self._consume(queue)

    def consume(self, queue: str, most: int) -> None:
        self._arrived.setdefault(queue, deque())
        self._most[queue] = 0
        self.hold_at_most(queue, most)

    def quiesce(self, queue: str) -> None:
        with _broker_errors():
            if queue in self._consuming:
                self._channel.basic_cancel(queue)
                self._consuming.discard(queue)

    def held_of(self, queue: str) -> int:
        return sum(held_from == queue for held_from in self._held.values())

    def leave(self, queue: str) -> None:
        self.hold_at_most(queue, 0, give_back=True)
        del self._arrived[queue]

    def keep_alive(self, wait_s: float = 0.0) -> None:
        # There is nothing to keep alive, only the time to wait.
        deadline = monotonic() + wait_s
        while (left := deadline - monotonic()) > 0:
            with _broker_errors():
                self._drain(left)

    def declare(self, topology: Topology) -> None:
        if topology.partitions:
            raise ConfigurationError(NO_PARTITIONS)
        with _broker_errors():
            for exchange in topology.exchanges:
                self._channel.exchange_declare(exchange, type="topic", durable=True)
            for queue in topology.queues:
                self._channel.queue_declare(queue.name, durable=True)
                for key in queue.routing_keys:
                    self._channel.queue_bind(queue.name, queue.exchange or topology.exchange, key)

    def declare_journal(self, topology: Topology, limits: JournalLimits) -> None:
        raise ConfigurationError(NO_JOURNAL)

    def has_journal(self, topology: Topology) -> bool:
        del topology
        return False

    def partitions(self, topology: Topology) -> int:
        del topology
        return 0

    def differences(self, topology: Topology) -> list[str]:
        del topology  # opening the link has declared everything
        return []

    def can_compare(self, topology: Topology) -> bool:
        del topology
        return True

    def declare_temporary(self, queue: str) -> None:
        # Here it stays until it is deleted.
        with _broker_errors():
            self._channel.queue_declare(queue, durable=True)

    def listen(self, queue: str) -> None:
        with _broker_errors():
            self._channel.add_listener(queue)
            self._bind_listener(queue)

    def delete(self, queue: str) -> None:
        # Its messages go, its empty name stays.
        with _broker_errors():
            self._channel.remove_listener(queue)
            self._channel.queue_purge(queue)

    def depth(self, queue: str) -> int:
        with _broker_errors():
            return int(self._channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int | None:
        del queue  # nothing counts the readers of the file
        return None

    def close(self) -> None:
        with suppress(SQLAlchemyError):
            self._connection.release()

    def _bind_listener(self, queue: str) -> None:
        self._channel.queue_declare(queue, durable=True)
        self._channel.queue_bind(queue, BILLING.events, "#")

    def _room(self, queue: str) -> int:
        return self._most[queue] - self.held_of(queue)

    def _give_back(self, queue: str) -> None:
        for tag in [tag for tag, held_from in self._held.items() if held_from == queue]:
            del self._held[tag]
            self._channel.basic_reject(tag, requeue=True)
        self._channel.flush()
        self._arrived[queue].clear()

    def _waiting(self, *, but: BulkShare | None = None) -> int:
        return sum(
            len(arrived) for queue, arrived in self._arrived.items() if but is None or queue != but.queue
        )

    def _drain(self, timeout_s: float) -> bool:
        if not self._consuming:
            sleep(timeout_s)
            return False
        try:
            self._connection.drain_events(timeout=timeout_s)
        except TimeoutError:
            return False
        return True

    def _consume(self, queue: str) -> None:
        self._consuming.add(queue)

        def on_message(message: Any) -> None:
            self._held[message.delivery_tag] = queue
            properties = dict(message.properties)
            info = properties.pop("delivery_info", {})
            self._arrived[queue].append(
                Delivery(
                    body=as_bytes(message.body),
                    queue=queue,
                    exchange=info.get("exchange") or "",
                    routing_key=info.get("routing_key") or queue,
                    tag=message.delivery_tag,
                    properties=properties | {"content_type": message.content_type},
                    headers=message.headers or {},
                )
            )

        self._channel.basic_consume(queue, no_ack=False, callback=on_message, consumer_tag=queue)

    def _is_routed(self, message: Outgoing) -> bool:
        """Return True where a queue is bound for ``message``; kombu drops it silently where none is."""
        return not message.exchange or bool(self._channel._lookup(message.exchange, message.routing_key))  # noqa: SLF001 - nothing public says it

    def _publish(self, message: Outgoing) -> None:
        properties = {name: value for name, value in message.properties.items() if value is not None}
        prepared = self._channel.prepare_message(
            message.body,
            content_type=properties.pop("content_type", None),
            content_encoding=properties.pop("content_encoding", None),
            headers=dict(message.headers),
            properties=properties | {"delivery_mode": 2},
        )
        self._channel.basic_publish(prepared, exchange=message.exchange, routing_key=message.routing_key)


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # kombu warns of SQLAlchemy's own deprecations here; they are not ours to mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise BrokerUnavailableError(f"the embedded broker's file is not available: {text}") from error
