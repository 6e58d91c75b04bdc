"""Partitioned queues of a test: their topology, and messages on the way that their producers choose."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial

from schemas import routing_key
from tests.support.mixed_messages import Message
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link
from worker.settings import Settings


def partitioned(settings: Settings, partitions: int, **changes: object) -> Settings:
    """Declare ``partitions`` on the broker of ``settings``; return the settings of its workers."""
    with closing(open_link(settings.broker_url.get_secret_value())) as link:
        link.declare(BILLING.partitioned(partitions))
    return settings.model_copy(update={"partitions": partitions, **changes})


def key_of(message: Message, partitions: int) -> str:
    """Return the routing key that a client gives to ``message``."""
    return routing_key(message["type"], message.get("userId"), partitions)


def publish_to_partitions(
    rabbit: RabbitClient, messages: Iterable[Message], partitions: int
) -> Iterator[tuple[str, Message]]:
    """Publish ``messages``; yield each with its correlation id."""
    for message in messages:
        yield rabbit.publish(message, routing_key=key_of(message, partitions)), message


def no_partition_has_any(rabbit: RabbitClient, partitions: int) -> None:
    """Fail the test unless all queues of work are empty; no worker may hold a message."""
    for queue in BILLING.partitioned(partitions).work_queues:
        eventually(partial(_is_empty, rabbit, queue.name), what=f"{queue.name} is empty")


def _is_empty(rabbit: RabbitClient, queue: str) -> bool:
    return rabbit.depth(queue) == 0
