"""Sizes above which an operator is asked again before balances change."""

#: Tokens up to which nobody is asked about one account.
SMALL = 100_000
#: Tokens up to which nobody is asked about a run over many accounts.
SMALL_RUN = 1_000_000


def is_large(tokens: int, balance: int) -> bool:
    """Return True for more than ``SMALL`` tokens, given or taken, that are more than half of the balance."""
    return abs(tokens) > SMALL and 2 * abs(tokens) > balance


def is_large_run(tokens: int) -> bool:
    """Return True for a run that gives back more than ``SMALL_RUN`` tokens."""
    return tokens > SMALL_RUN
