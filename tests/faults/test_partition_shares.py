"""Shares of real workers in the partitions: one starts, one is killed, one stops, and nothing is twice."""

import os
import signal
from collections import Counter
from itertools import islice
from time import monotonic

import pytest

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
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.lanes.partitions import LEASE_S
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
