"""Sizes above which an operator is asked again."""

import pytest

from worker.runtime.large_changes import is_large, is_large_run


@pytest.mark.parametrize(
    ("tokens", "balance", "expected"),
    [
        (100_000, 0, False),
        (100_001, 0, True),
        (-100_001, 0, True),
        (100_001, -5, True),
        (100_001, 200_001, True),
        (100_001, 200_002, False),
        (-2_500_000, 5_000_000, False),
        (-2_500_001, 5_000_000, True),
    ],
)
def test_large_is_above_a_size_and_above_half_of_the_balance(
    tokens: int, balance: int, expected: bool
) -> None:
    assert is_large(tokens, balance) is expected


def test_large_run_gives_back_more_than_a_million_tokens() -> None:
    assert [is_large_run(tokens) for tokens in (1_000_000, 1_000_001)] == [False, True]
