"""Messages of the benchmarks; the seed decides them and their order."""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from uuid import UUID

from schemas import DeductUsage, Message, UsageBatch, routing_key
from tests.benchmarks.sandbox import user_id
from worker.bootstrap import utc_now
from worker.broker import BILLING, Outgoing
from worker.demo.scenario import zipf_weights

SEED = 20_261_123

#: Picks the user of the next message, by number.
Pick = Callable[[], int]


def in_turns(users: int) -> Pick:
    """Return a choice of users in turn."""
    step = iter(range(0, 2**62, 7919))  # a prime, so that neighbours in the queue are none among the accounts
    return lambda: next(step) % users


def uniform(users: int, seed: int = SEED) -> Pick:
    """Return a choice of random users, all equally likely."""
    rng = random.Random(seed)
    return lambda: rng.randrange(users)


def zipf(users: int, skew: float, seed: int = SEED) -> Pick:
    """Return a choice of random users: rank n has a weight of 1/n^skew; ranks are scattered."""
    rng = random.Random(seed)
    weights = list(accumulate(zipf_weights(users, skew)))
    order = list(range(users))
    rng.shuffle(order)
    return lambda: order[rng.choices(range(users), cum_weights=weights)[0]]


def hot() -> Pick:
    """Return a choice of one user for every message."""
    return lambda: 0


def deductions(count: int, pick: Pick, seed: int = SEED) -> Iterator[DeductUsage]:
    """Yield ``count`` deductions of one token each; references are as random as a UUID."""
    rng = random.Random(seed)
    for number in range(count):
        yield DeductUsage(
            reference_id=f"upload-{number:08}-{UUID(int=rng.getrandbits(128), version=4)}",
            user_id=user_id(pick()),
            tokens=1,
            feature="transcription",
            occurred_at=utc_now(),
        )


def batches(
    count: int, items: int, users: int, *, of_one_user: bool, seed: int = SEED
) -> Iterator[UsageBatch]:
    """Yield ``count`` batches of ``items`` deductions, each of one user or of many."""
    next_user = in_turns(users)
    of_batch = 0

    def pick() -> int:
        return of_batch if of_one_user else next_user()

    singles = deductions(count * items, pick, seed)
    for number in range(count):
        if of_one_user:
            of_batch = next_user()
        yield UsageBatch(
            reference_id=f"batch-{number:08}",
            user_id=user_id(of_batch) if of_one_user else None,
            items=tuple(islice(singles, items)),
        )


def outgoing(
    messages: Iterable[Message], exchange: str = BILLING.exchange, *, partitions: int = 0
) -> Iterator[Outgoing]:
    """Yield ``messages`` as their producer publishes them; with ``partitions`` each to that of its user."""
    for number, message in enumerate(messages):
        key = routing_key(message.type, message.user_id, partitions)
        yield published(key, message.to_json(), f"message-{number:08}", exchange)


def published(key: str, body: bytes, message_id: str, exchange: str = BILLING.exchange) -> Outgoing:
    """Return one message as its producer publishes it."""
    properties = {"message_id": message_id, "content_type": "application/json", "app_id": "bench"}
    return Outgoing(body, exchange, key, properties)
