"""Order of the tests for the processes of a run: nothing is lost, and each begins with slow ones."""

import pytest

from tests.support.processes import ROOT
from tests.support.schedule import SLOW, is_slow, scheduled


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("slow", [0, 1, 5, 30])
def test_order_keeps_every_test_once(slow: int, count: int) -> None:
    assert sorted(scheduled(range(slow), range(slow, 100), count)) == list(range(100))


def test_each_part_begins_with_its_slow_tests() -> None:
    first, second = "abc", "defghij"
    assert "".join(scheduled(first, second, 2)) == "adefbcghij"
    assert "".join(scheduled(first, second, 1)) == first + second


@pytest.mark.parametrize("place", SLOW)
def test_slow_place_has_tests(place: str) -> None:
    path = ROOT / "tests" / place
    assert path.suffix == ".py" or list(path.glob("test_*.py"))
    assert path.exists()
    assert is_slow(path)


def test_quick_test_beside_slow_ones_is_not_slow() -> None:
    assert not is_slow(ROOT / "tests" / "benchmarks" / "test_results.py")
    assert not is_slow(ROOT / "tests" / "core" / "test_rules.py")
