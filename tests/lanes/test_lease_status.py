"""Leases of partitions in words."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.lanes.lease_status import LeaseStatus, ranges
from worker.ledger.partition_leases import Lease

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LATER = NOW + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1], "0-1"), ([7, 0, 2, 1], "0-2, 7"), ([1, 3, 5, 6], "1, 3, 5-6")],
)
def test_numbers_are_shown_as_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_status_names_who_takes_what() -> None:
    leases = [Lease(number, "host:7:9f" if number > 3 else "host:8:1a", LATER) for number in range(8)]
    status = LeaseStatus.of(leases, 8, NOW)
    assert (status.text, status.free) == ("host:8 takes 0-3; host:7 takes 4-7", [])


def test_status_names_what_nobody_takes() -> None:
    leases = [Lease(0, "host:8:1a", LATER), Lease(1, "host:7:9f", NOW), Lease(2)]
    assert LeaseStatus.of(leases, 4, NOW).text == (
        "host:8 takes 0; nobody takes 1-3: a worker takes them within seconds, start one"
    )
    assert LeaseStatus.of([], 8, NOW).free == list(range(8))
