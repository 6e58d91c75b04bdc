"""Shares of a whole in integers: they add up, and none is off by one or more."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.apportioning import apportion

weights = st.lists(st.integers(0, 10**12), min_size=1, max_size=6).filter(any)


@given(whole=st.integers(0, 10**15), weights=weights)
def test_shares_add_up_and_are_off_by_less_than_one(whole: int, weights: list[int]) -> None:
    shares = apportion(whole, weights)
    assert sum(shares) == whole
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(whole * weight, sum(weights))) < 1
        assert weight or not share


@pytest.mark.parametrize(
    ("whole", "weights", "shares"),
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (999, [30, 0, 70], [300, 0, 699]),
        (1, [1, 2, 2], [0, 1, 0]),
        (0, [3, 1], [0, 0]),
        (7, [0, 5], [0, 7]),
    ],
)
def test_largest_remainder_gets_the_unit_that_is_left(
    whole: int, weights: list[int], shares: list[int]
) -> None:
    assert apportion(whole, weights) == shares
