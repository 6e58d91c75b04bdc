"""Shares of real workers in the partitions: one starts, one is killed, one stops, and nothing is twice."""

import os
import signal
from collections import Counter
from itertools import count, islice
from time import monotonic

import pytest
from sqlalchemy import select

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.background_producer import BackgroundProducer
from tests.support.expected_state import ExpectedState, every_reply
from tests.support.mixed_messages import mixed
from tests.support.partitioned_broker import (
    key_of,
    no_partition_has_any,
    partitioned,
    publish_to_partitions,
)
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.lanes.partitions import LEASE_S
from worker.ledger.tables import entries, operations
from worker.settings import Settings

PARTITIONS = 8
#: Time of a lease in the short tests.
SHORT_LEASE_S = 2.0
#: Longest time until the partitions of a dead worker are taken.
TAKEN_OVER_S = 15.0


@pytest.fixture
def lease_s() -> float:
    """Time of a lease; a test may say another."""
    return SHORT_LEASE_S


@pytest.fixture
def worker_settings(worker_settings: Settings, lease_s: float) -> Settings:
    """Settings of workers on partitioned queues."""
    return partitioned(worker_settings, PARTITIONS, lease_s=lease_s)


def shares(application: Application) -> list[int]:
    """Return the numbers of partitions that workers have by their leases, least first."""
    leases, now = application.partition_leases.held()
    return sorted(Counter(lease.worker for lease in leases if not lease.is_free(now)).values())


def consumed(rabbit: RabbitClient) -> int:
    """Return the number of partitions of which exactly one worker takes each queue."""
    names = [f"billing.{lane}.{number:02d}" for number in range(PARTITIONS) for lane in ("payments", "usage")]
    counts = [rabbit.channel.queue_declare(name, passive=True).method.consumer_count for name in names]
    return counts.count(1) // 2


def posted(application: Application, user: str) -> list[str]:
    """Return the references of a user's deductions in the order in which they were posted."""
    statement = (
        select(operations.c.reference_id)
        .join(entries, entries.c.operation_id == operations.c.operation_id)
        .where(operations.c.user_id == user, operations.c.type == "usage.deduct")
        .order_by(entries.c.sequence)
    )
    with application.engine.connect() as connection:
        return list(connection.execute(statement).scalars())


@pytest.mark.parametrize(
    "lease_s", [SHORT_LEASE_S, pytest.param(LEASE_S, marks=pytest.mark.slow)], ids=["short", "true"]
)
def test_workers_share_the_partitions_and_take_those_of_a_killed_one(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    with running(application):
        eventually(lambda: shares(application) == [PARTITIONS], what="the first has all")
        killed = workers.start()
        eventually(lambda: shares(application) == [4, 4], what="each has its half")
        eventually(lambda: consumed(rabbit) == PARTITIONS, what="and takes it")
        for correlation_id, message in publish_to_partitions(rabbit, islice(mixed(), 60), PARTITIONS):
            state.sent(correlation_id, message)
        os.kill(killed.pid, signal.SIGKILL)
        died = monotonic()
        eventually(lambda: shares(application) == [PARTITIONS], what="the other has all")
        eventually(lambda: consumed(rabbit) == PARTITIONS, what="and takes all")
        assert monotonic() - died < TAKEN_OVER_S
        state.check(every_reply(rabbit, state.correlations))
        no_partition_has_any(rabbit, PARTITIONS)
    assert shares(application) == [], "an orderly end frees them"


def test_worker_that_was_paused_loses_its_partitions_and_gives_back_what_it_holds(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    paused = workers.start()
    eventually(lambda: shares(application) == [PARTITIONS], what="the first has all")
    with running(application):
        eventually(lambda: shares(application) == [4, 4], what="each has its half")
        os.kill(paused.pid, signal.SIGSTOP)
        for correlation_id, message in publish_to_partitions(rabbit, islice(mixed(), 60), PARTITIONS):
            state.sent(correlation_id, message)
        eventually(lambda: shares(application) == [PARTITIONS], what="the other has all")
        os.kill(paused.pid, signal.SIGCONT)
        state.check(every_reply(rabbit, state.correlations))
        eventually(lambda: shares(application) == [4, 4], what="it takes part again")
        eventually(lambda: consumed(rabbit) == PARTITIONS, what="each is taken once")
        no_partition_has_any(rabbit, PARTITIONS)


def test_worker_that_stops_hands_over_and_nothing_is_twice(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    url = application.settings.broker_url.get_secret_value()
    stopping = workers.start("--batch-size", "20")
    eventually(lambda: shares(application) == [PARTITIONS], what="the first has all")
    with (
        running(application),
        BackgroundProducer(
            url, mixed(), reply_to=rabbit.reply_queue, key_of=lambda message: key_of(message, PARTITIONS)
        ) as producer,
    ):
        eventually(lambda: shares(application) == [4, 4], what="each has its half")
        eventually(lambda: len(producer.published) > 200, what="load")
        assert workers.stop(stopping)[0] == 0
        assert shares(application) in ([4], [PARTITIONS]), "its leases end with it"
        eventually(lambda: shares(application) == [PARTITIONS], patience_s=LEASE_S, what="the other has all")
        sent = len(producer.published)
        eventually(lambda: len(producer.published) > sent + 50, what="load behind it")
    for message in producer.published:
        state.sent(message["referenceId"], message)
    with running(application):
        replies = every_reply(rabbit, state.correlations)
    state.check(replies)
    assert {len(copies) for copies in replies.values()} == {1}
    no_partition_has_any(rabbit, PARTITIONS)


def test_order_of_a_user_is_kept_while_partitions_are_handed_over(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    users = [f"u-{number}" for number in range(12)]
    opened = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in users]
    applied(application.engine, application.catalog, *opened)
    deductions = (
        {"type": "usage.deduct", "referenceId": f"d-{n}", "userId": users[n % len(users)], "tokens": 1}
        for n in count()
    )
    url = application.settings.broker_url.get_secret_value()
    stopping = workers.start("--batch-size", "20")
    eventually(lambda: shares(application) == [PARTITIONS], what="the first has all")
    with BackgroundProducer(
        url, deductions, reply_to=rabbit.reply_queue, key_of=lambda message: key_of(message, PARTITIONS)
    ) as producer:
        eventually(lambda: len(producer.published) > 50, what="load")
        with running(application):
            eventually(lambda: shares(application) == [4, 4], what="half of them are handed over")
            assert workers.stop(stopping)[0] == 0
            eventually(lambda: shares(application) == [PARTITIONS], what="and the others")
            behind = len(producer.published)
            eventually(lambda: len(producer.published) > behind + 50, what="load behind it")
    with running(application):
        no_partition_has_any(rabbit, PARTITIONS)
        replies = every_reply(rabbit, [message["referenceId"] for message in producer.published])
    assert {len(copies) for copies in replies.values()} == {1}
    for user in users:
        published = [one["referenceId"] for one in producer.published if one["userId"] == user]
        assert posted(application, user) == published


def test_drain_applies_what_waits_in_partitions_and_ends(
    application: Application, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    for correlation_id, message in publish_to_partitions(rabbit, islice(mixed(), 60), PARTITIONS):
        state.sent(correlation_id, message)
    application.consumer(FlagStop()).run(drain=True)
    state.check(every_reply(rabbit, state.correlations))
    no_partition_has_any(rabbit, PARTITIONS)
    assert shares(application) == []
