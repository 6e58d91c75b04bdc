"""Balances as people read them: a debt is said as such, and never as a negative number to spend."""


def owed_text(available: int, debt: int) -> str | None:
    """Return what an account in debt may spend and what it owes; None for one without a debt."""
    return f"{max(available, 0):,} to spend, {debt:,} owed" if debt else None


def owed_after(balance: int) -> int:
    """Return the tokens that are certainly owed at a balance, of which nothing else is known."""
    return max(-balance, 0)
