"""Names of partitioned queues and of their routing keys, and the lane that they are of."""

import re
from functools import lru_cache
from typing import Final

from schemas.partitions import suffix_of

#: Pattern of the partition at the end of a queue's name or of a routing key, for RabbitMQ and for Python.
SUFFIX_PATTERN: Final = r"\.[0-9]{2}"
NO_PARTITIONS: Final = "the embedded broker has no partitions: use RabbitMQ, or leave BILLING_PARTITIONS out"
_SUFFIX = re.compile(SUFFIX_PATTERN)
_LENGTH = len(suffix_of(0))


def queue_of(lane: str, partition: int) -> str:
    """Return the name of a partition's queue: ``billing.usage.07``."""
    return lane + suffix_of(partition)


@lru_cache(maxsize=10_000)
def partition_in(name: str) -> int | None:
    """Return the partition at the end of a queue's name or of a routing key; None where it has none."""
    return int(name[-2:]) if _SUFFIX.fullmatch(name[-_LENGTH:]) else None


@lru_cache(maxsize=10_000)
def without_partition(name: str) -> str:
    """Return a queue's name without its partition, which is its lane; of a routing key, its type."""
    return name if partition_in(name) is None else name[:-_LENGTH]
