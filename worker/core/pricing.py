"""Price of metered usage."""

from typing import assert_never

from worker.catalog import PricingRule


def price_of(rule: PricingRule, quantity: int) -> int:
    """Return the tokens that ``quantity`` units cost by ``rule``; zero units cost nothing.

    In whole numbers throughout: ``half_even`` rounds an exact half to the even neighbour.
    """
    if quantity == 0:
        return 0
    return max(_rounded(quantity * rule.tokens, rule), rule.minimum_tokens)


def _rounded(numerator: int, rule: PricingRule) -> int:
    whole, rest = divmod(numerator, rule.per)
    match rule.rounding:
        case "down":
            return whole
        case "up":
            return whole + (rest > 0)
        case "half_even":
            is_odd = whole % 2 == 1
            return whole + (2 * rest > rule.per or (2 * rest == rule.per and is_odd))
        case _:
            assert_never(rule.rounding)
