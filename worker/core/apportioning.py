"""Shares of a whole in integers that add up to it."""

from collections.abc import Sequence


def apportion(whole: int, weights: Sequence[int]) -> list[int]:
    """Return the shares of ``whole`` in proportion to ``weights``, by the largest remainder.

    Each share is rounded down, and what is left goes one by one to the largest remainders, of equal ones to
    the first. Weights are not negative and not all zero.
    """
    total = sum(weights)
    shares = [whole * weight // total for weight in weights]
    remainders = [whole * weight % total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: (-remainders[place], place))
    for place in by_remainder[: whole - sum(shares)]:
        shares[place] += 1
    return shares
