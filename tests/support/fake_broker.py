"""Exchanges, queues and bindings in memory, as the brokers in use have them."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import count
from threading import Condition

from worker.broker import BILLING, DIRECT_REPLY_TO, Delivery, Outgoing

_tags = count(1)


class FakeBroker:
    """A broker that links share. A queue that is named and does not exist is made.

    ``changed`` guards the queues, and says when a message arrives. ``consuming`` has the queues of each link
    that is open.
    """

    def __init__(self, *, listeners: Iterable[str] = ()) -> None:
        self.changed = Condition()
        self.queues: dict[str, deque[Delivery]] = {queue.name: deque() for queue in BILLING.queues}
        self.listeners = set(listeners)
        self.consuming: dict[object, set[str]] = {}

    def queue(self, name: str) -> deque[Delivery]:
        return self.queues.setdefault(name, deque())

    def put(self, message: Outgoing) -> bool:
        """Put ``message`` into the queues that are bound for it; False where there are none."""
        names = self._route(message)
        with self.changed:
            for name in names:
                self.queue(name).append(_delivery(message, name))
            self.changed.notify_all()
        return bool(names)

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Put deliveries back to the front of their queues, to be delivered again."""
        with self.changed:
            for delivery in reversed(list(deliveries)):
                self.queue(delivery.queue).appendleft(_redelivery(delivery))
            self.changed.notify_all()

    def delete(self, name: str) -> None:
        with self.changed:
            self.queues.pop(name, None)
            self.listeners.discard(name)

    @staticmethod
    def _bound(exchange: str, routing_key: str) -> list[str]:
        return [
            queue.name
            for queue in BILLING.work
            if (queue.exchange or BILLING.exchange) == exchange
            and any(fnmatchcase(routing_key, key) for key in queue.routing_keys)
        ]

    def _route(self, message: Outgoing) -> list[str]:
        if message.exchange == BILLING.events:
            return sorted(self.listeners)
        if message.exchange:
            return self._bound(message.exchange, message.routing_key)
        return [] if message.routing_key.startswith(DIRECT_REPLY_TO) else [message.routing_key]


def _delivery(message: Outgoing, queue: str) -> Delivery:
    return Delivery(
        body=message.body,
        queue=queue,
        exchange=message.exchange,
        routing_key=message.routing_key,
        tag=next(_tags),
        properties={name: value for name, value in message.properties.items() if value is not None},
        headers=dict(message.headers),
    )


def _redelivery(delivery: Delivery) -> Delivery:
    headers = {**delivery.headers, "x-delivery-count": delivery.delivery_count + 1}
    return replace(delivery, tag=next(_tags), redelivered=True, headers=headers)
