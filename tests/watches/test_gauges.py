"""Gauges of the whole ledger: what they show, what nobody knows, and that the scheduler reads them."""

from collections.abc import Callable
from datetime import timedelta
from math import isnan
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from schemas import DeductUsage, PaymentSucceeded, ReserveUsage
from tests.deadletters.parts import World, deduct
from tests.support.fakes import FakeLink
from worker.bootstrap import Application
from worker.broker import BILLING, Link
from worker.errors import BrokerUnavailableError
from worker.ledger.durability import Durability
from worker.metrics import Metrics
from worker.watches import durability
from worker.watches.dead_letters import DeadLetterWatch
from worker.watches.durability import DurabilityWatch
from worker.watches.payments import RejectedPaymentWatch
from worker.watches.queues import QueueWatch
from worker.watches.totals import TotalsWatch


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


# -- dead letters -----------------------------------------------------------------------------------------


def dead_letters(metrics: Metrics) -> tuple[float, float, float]:
    names = ("waiting", "tokens", "tokens_unknown")
    waiting, tokens, unknown = (value(metrics, f"billing_dead_letters_{name}") for name in names)
    return waiting, tokens, unknown


def test_gauges_show_the_dead_letters_that_wait(world: World, metrics: Metrics) -> None:
    watch = DeadLetterWatch(world.engine, metrics)
    watch.look()
    assert dead_letters(metrics) == (0, 0, 0)
    assert isnan(value(metrics, "billing_dead_letters_oldest_timestamp_seconds"))
    first, second = world.park_failed(deduct("a", 5), deduct("b", 7))
    watch.look()
    assert dead_letters(metrics) == (2, 12, 0)
    world.service.discard([first], actor="ann", reason="a test")
    watch.look()
    assert dead_letters(metrics) == (1, 7, 0)
    oldest = world.service.dead_letter(second).first_failed_at
    assert oldest is not None
    assert value(metrics, "billing_dead_letters_oldest_timestamp_seconds") == oldest.timestamp()
    watch.forget()
    assert all(map(isnan, dead_letters(metrics)))


# -- payments, totals -------------------------------------------------------------------------------------


def test_gauge_counts_payments_that_stay_rejected(world: World, metrics: Metrics) -> None:
    watch = RejectedPaymentWatch(world.engine, metrics, lambda: world.now)
    paid = {
        "reference_id": "pi_1", "user_id": "nobody", "package_id": "starter", "amount_minor": 1,
        "currency": "USD", "provider": "stripe",
    }  # fmt: skip
    world.apply(PaymentSucceeded.model_validate(paid))
    watch.look()
    assert value(metrics, "billing_payments_to_retry") == 1
    watch.forget()
    assert isnan(value(metrics, "billing_payments_to_retry"))


def test_totals_are_the_sums_of_all_accounts(world: World, metrics: Metrics) -> None:
    world.open("ann", "bob")
    world.apply(
        DeductUsage(reference_id="d", user_id="ann", tokens=4_000, feature="ocr"),
        ReserveUsage(reference_id="h", user_id="bob", tokens=1_500, ttl_seconds=60),
    )
    watch = TotalsWatch(world.engine, metrics, lambda: world.now + timedelta(seconds=5))
    watch.look()
    names = ("accounts", "held_tokens", "debt_tokens", "liability_tokens", "totals_timestamp_seconds")
    found = [value(metrics, f"billing_ledger_{name}") for name in names]
    assert found == [2, 1_500, 0, 16_000, world.now.timestamp() + 5]
    watch.forget()
    assert all(isnan(value(metrics, f"billing_ledger_{name}")) for name in names)


# -- servers ----------------------------------------------------------------------------------------------


class SomeQueues(FakeLink):
    """Link to a broker whose bulk queue is missing, and that can't count consumers of the dead ones."""

    def depth(self, queue: str) -> int:
        if queue == BILLING.bulk.name:
            raise BrokerUnavailableError("no queue")
        return len(queue)

    def consumers(self, queue: str) -> int | None:
        return None if queue == BILLING.dead.name else 2


def test_missing_queue_is_unknown_and_hides_no_other(metrics: Metrics) -> None:
    link = SomeQueues()
    queues = ["billing.bulk", "billing.usage", "billing.dead"]
    connect = cast(Callable[[], Link], lambda: link)
    watch = QueueWatch(connect, queues, metrics)

    def shown(queue: str) -> tuple[float, float]:
        names = ("billing_queue_messages", "billing_queue_consumers")
        messages, consumers = (value(metrics, name, queue=queue) for name in names)
        return messages, consumers

    assert all(isnan(number) for queue in queues for number in shown(queue))
    watch.look()
    assert link.closed
    assert all(map(isnan, shown("billing.bulk")))
    assert shown("billing.usage") == (13, 2)
    assert [isnan(number) for number in shown("billing.dead")] == [False, True]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (None, (0, 0, 0)),
        (Durability("on", "s1", receivers=1, synchronous=1), (1, 1, 0)),
        (Durability("on", "s1", receivers=1, synchronous=0), (1, 0, 1)),
        (Durability("on", "", receivers=1), (1, 0, 1)),
        (Durability("on", "s1", receivers=1, synchronous=None), (1, "unknown", 0)),
    ],
)
def test_commits_are_at_risk_without_a_synchronous_standby(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics, found: Durability | None, shown: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(durability, "durability_of", lambda _: found)
    DurabilityWatch(cast(Engine, None), 1, metrics).look()
    names = ("standbys", "synchronous_standbys", "commits_at_risk")
    values = [value(metrics, f"billing_database_{name}") for name in names]
    assert tuple("unknown" if isnan(number) else number for number in values) == shown


def test_scheduler_knows_every_gauge_after_a_look(application: Application) -> None:
    application.watches().look()
    value_of = application.metrics.registry.get_sample_value
    for queue in (*BILLING.work, BILLING.queries, BILLING.dead):
        for name in ("billing_queue_messages", "billing_queue_consumers"):
            assert value_of(name, {"queue": queue.name}) == 0
    for name in (
        "billing_dead_letters_waiting", "billing_payments_to_retry", "billing_ledger_accounts",
        "billing_ledger_liability_tokens", "billing_database_standbys",
    ):  # fmt: skip
        assert value_of(name) == 0
