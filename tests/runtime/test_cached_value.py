"""Cached values: age, time limit, failures, stale values."""

import threading
from datetime import UTC, datetime

from tests.support.waiting import eventually
from worker.errors import BrokerUnavailableError
from worker.runtime.cached_value import CachedValue, KnownValue, Unknown

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def cached(fetch: object, *, max_age_s: float = 60, timeout_s: float = 5) -> CachedValue[int]:
    return CachedValue(fetch, name="a fetch", max_age_s=max_age_s, timeout_s=timeout_s, clock=lambda: NOW)  # type: ignore[arg-type]


def test_value_is_cached_for_its_time() -> None:
    fetched = []

    def fetch() -> int:
        fetched.append(1)
        return len(fetched)

    kept = cached(fetch)
    assert [kept.get(), kept.get()] == [KnownValue(1, NOW), KnownValue(1, NOW)]
    fresh = cached(fetch, max_age_s=0)
    assert fresh.get() == KnownValue(2, NOW)
    eventually(lambda: fresh.get() == KnownValue(3, NOW))


def test_value_of_an_unavailable_server_is_unknown_with_the_reason() -> None:
    def fetch() -> int:
        raise BrokerUnavailableError("the broker is not available")

    assert cached(fetch).get() == Unknown("the broker is not available")


def test_value_of_a_failed_fetch_is_unknown() -> None:
    def fetch() -> int:
        raise ZeroDivisionError

    assert cached(fetch).get() == Unknown("a fetch failed: ZeroDivisionError")


def test_stale_value_is_served_while_a_refresh_runs() -> None:
    go, fetched = threading.Event(), []

    def fetch() -> int:
        fetched.append(1)
        if len(fetched) > 1:
            go.wait(30)
        return len(fetched)

    totals = CachedValue(
        fetch, name="a fetch", max_age_s=0, timeout_s=30, clock=lambda: NOW, serve_stale=True
    )
    assert [totals.get(), totals.get()] == [KnownValue(1, NOW), KnownValue(1, NOW)]
    go.set()
    eventually(lambda: totals.get() != KnownValue(1, NOW))


def test_slow_fetch_delays_no_page_and_runs_once() -> None:
    go, fetched = threading.Event(), []

    def fetch() -> int:
        fetched.append(1)
        go.wait(30)
        return 7

    slow = cached(fetch, timeout_s=0.01)
    answers = [slow.get() for _ in range(3)]
    assert all(isinstance(answer, Unknown) for answer in answers)
    go.set()
    assert cached(fetch).get() == KnownValue(7, NOW)
    assert len(fetched) == 2
