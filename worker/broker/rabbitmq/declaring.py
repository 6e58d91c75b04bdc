"""Declaring a topology on RabbitMQ, and comparing it with what exists."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from schemas.partitions import PARTITIONS
from worker.broker.rabbitmq.connection import broker_errors, channel_of, is_on_a_lost_node, way_out_of
from worker.broker.topology import JournalLimits, Queue, Topology
from worker.errors import ConfigurationError


def declare(channel: Any, topology: Topology) -> None:
    """Declare exchanges, queues and bindings; those that exist and are equal stay as they are."""
    for exchange in topology.exchanges:
        _declare_exchange(channel, exchange)
    for queue in topology.queues:
        _declare_queue(channel, queue)
        for key in queue.routing_keys:
            channel.queue_bind(queue.name, queue.exchange or topology.exchange, key)


def declare_journal(channel: Any, topology: Topology, limits: JournalLimits) -> None:
    """Declare the journal and bind it to the exchanges of commands."""
    _declare_queue(channel, Queue(topology.journal, arguments=limits.arguments))
    bind_journal(channel, topology)


def bind_journal(channel: Any, topology: Topology) -> None:
    """Bind the journal to the exchanges of commands, with the keys of the queues of work."""
    for exchange, key in topology.journal_bindings:
        channel.queue_bind(topology.journal, exchange, key)


def is_there(connection: Any, queue: str) -> bool:
    """Return True where a queue of this name exists. Raises ConfigurationError for users who may not ask."""
    try:
        with broker_errors(passing=True), channel_of(connection) as channel:
            channel.queue_declare(queue, passive=True)
    except NotFound:
        return False
    except AccessRefused as error:
        raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
    return True


def partitions(connection: Any, topology: Topology) -> int:
    """Return the highest number of partitions whose last queue is there; 0 where none is."""
    lane = topology.work[0]
    for number in reversed(PARTITIONS):
        if is_there(connection, lane.of_partition(number - 1).name):
            return number
    return 0


def differences(connection: Any, topology: Topology) -> list[str]:
    """Return the parts of ``topology`` that are missing or differ, one line each.

    Bindings can't be read over AMQP; `topology declare` puts them right without asking.
    """
    compares = can_compare(connection, topology)  # asked once: the broker logs each refusal as an error
    found = [
        *(_exchange_difference(connection, exchange, compares=compares) for exchange in topology.exchanges),
        *(_queue_difference(connection, queue, compares=compares) for queue in topology.queues),
    ]
    return [line for line in found if line is not None]


def can_compare(connection: Any, topology: Topology) -> bool:
    """Return False where this user may not configure the exchange of commands; changes nothing."""
    name = topology.exchange
    try:
        with broker_errors(passing=True), channel_of(connection) as channel:
            channel.exchange_declare(name, "topic", durable=True, passive=True)
            _declare_exchange(channel, name)
    except AccessRefused:
        return False
    except (NotFound, PreconditionFailed):
        return True  # a difference, which tells more
    return True


def _declare_exchange(channel: Any, name: str) -> None:
    channel.exchange_declare(name, "topic", durable=True, auto_delete=False)


def _declare_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=dict(queue.arguments))


def _exchange_difference(connection: Any, name: str, *, compares: bool) -> str | None:
    return _difference(
        connection,
        f"exchange {name!r}",
        lambda channel: channel.exchange_declare(name, "topic", durable=True, passive=True),
        (lambda channel: _declare_exchange(channel, name)) if compares else None,
    )


def _queue_difference(connection: Any, queue: Queue, *, compares: bool) -> str | None:
    return _difference(
        connection,
        f"queue {queue.name!r}",
        lambda channel: channel.queue_declare(queue.name, passive=True),
        (lambda channel: _declare_queue(channel, queue)) if compares else None,
    )


def _difference(
    connection: Any, name: str, look: Callable[[Any], object], compare: Callable[[Any], object] | None
) -> str | None:
    """Return the difference: the broker refuses a declaration that is not equal to what exists.

    A worker needs no right to configure; then its existence is all that is known.
    """
    try:
        with broker_errors(passing=True), channel_of(connection) as channel:
            look(channel)
            if compare is not None:
                with suppress(AccessRefused):  # versions differ in its text, so nothing reads it
                    compare(channel)
    except NotFound as error:
        missing = "on a node that is away" if is_on_a_lost_node(error) else "missing"
        return f"{name} is {missing}: {way_out_of(error)}"
    except PreconditionFailed as error:
        return f"{name} differs: {error.reply_text}; delete it when it is empty, then declare it"
    except AccessRefused as error:
        return f"{name}: {error.reply_text}"
    return None
