"""Watch over events that wait for their payment: gauges, and one line for each that is overdue."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import isnan

import pytest
from sqlalchemy import Engine

from schemas import OpenAccount, PaymentRefunded, PaymentSucceeded
from tests.support.apply_commands import applied
from tests.support.fake_stop import FakeStop
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.metrics import Metrics
from worker.waiting_watch import LINES_MAX, LOOK_EVERY_S, WaitingWatch

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
DAY = timedelta(days=1)


class WatchClock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def clock() -> WatchClock:
    return WatchClock()


@pytest.fixture
def watch(engine: Engine, metrics: Metrics, clock: WatchClock) -> WaitingWatch:
    return WaitingWatch(engine, 3, metrics, clock)


def refunded(reference: str, payment: str, currency: str = "USD") -> PaymentRefunded:
    return PaymentRefunded.model_validate(
        {
            "reference_id": reference,
            "original_reference_id": payment,
            "amount_minor": 5,
            "currency": currency,
        }
    )


def gauges(metrics: Metrics) -> tuple[float | None, float | None]:
    value = metrics.registry.get_sample_value
    return value("billing_payments_waiting"), value("billing_payments_overdue")


def test_gauges_are_unknown_before_the_first_look(metrics: Metrics) -> None:
    assert all(value is not None and isnan(value) for value in gauges(metrics))


def test_event_is_logged_once_when_it_becomes_overdue(
    engine: Engine,
    catalog: Catalog,
    watch: WaitingWatch,
    clock: WatchClock,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    applied(engine, catalog, refunded("re_1", "pi_1"), now=NOW)
    for days, overdue in ((0, 0), (3, 0), (4, 1), (5, 1)):
        clock.now = NOW + days * DAY
        watch.look()
        assert gauges(metrics) == (1, overdue)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line == (
        "the event 're_1' waits for the payment 'pi_1' since 2026-11-22 10:00Z, longer than 3 days: "
        "see `billing-worker payments`"
    )
    WaitingWatch(engine, 3, metrics, clock).look()
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 2, "another process"


def test_gauges_fall_when_the_payment_comes(
    engine: Engine, catalog: Catalog, watch: WaitingWatch, clock: WatchClock, metrics: Metrics
) -> None:
    applied(engine, catalog, OpenAccount(reference_id="o", user_id="ann", tier="free"), now=NOW)
    applied(engine, catalog, refunded("re_1", "pi_1"), refunded("re_2", "pi_1", "EUR"), now=NOW)
    clock.now = NOW + 4 * DAY
    watch.look()
    assert gauges(metrics) == (2, 2)
    paid = PaymentSucceeded(
        reference_id="pi_1", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
    )
    applied(engine, catalog, paid, now=clock.now)
    watch.look()
    assert gauges(metrics) == (1, 1), "the refund in another currency can't count"


def test_very_many_overdue_events_are_logged_some_at_a_time_and_each_once(
    engine: Engine, catalog: Catalog, watch: WaitingWatch, clock: WatchClock, caplog: pytest.LogCaptureFixture
) -> None:
    applied(engine, catalog, *(refunded(f"re_{n}", f"pi_{n}") for n in range(LINES_MAX + 5)), now=NOW)
    clock.now = NOW + 4 * DAY
    for lines in (LINES_MAX, LINES_MAX + 5, LINES_MAX + 5):
        watch.look()
        assert len({record.getMessage() for record in caplog.records}) == lines
        assert len(caplog.records) == lines


def test_outage_makes_the_gauges_unknown_and_ends_nothing(
    watch: WaitingWatch, metrics: Metrics, clock: WatchClock
) -> None:
    watch.look()
    away = ledger_engine("postgresql://u:p@127.0.0.1:9/db")
    WaitingWatch(away, 3, metrics, clock).look()
    away.dispose()
    assert all(value is not None and isnan(value) for value in gauges(metrics))


def test_watch_looks_again_after_a_while_until_it_is_stopped(watch: WaitingWatch) -> None:
    stop = FakeStop(waits_left=3)
    watch.run(stop)
    assert stop.waited_s == [LOOK_EVERY_S] * 3
