"""Figures of the benchmark of partitions."""

import pytest

from tests.benchmarks.partitions import settled_per_second
from tests.benchmarks.probe import Seen


@pytest.mark.parametrize(
    ("latencies_ms", "expected"),
    [([100.0] * 10, 10.0), ([10.0] * 9 + [1_100.0], 5.0), ([1_000.0] + [0.0] * 9, 10.0)],
)
def test_settled_rate_ends_with_the_last_reply(latencies_ms: list[float], expected: float) -> None:
    assert settled_per_second(10, Seen(latencies_ms, [], [])) == pytest.approx(expected)
