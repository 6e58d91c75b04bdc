"""Sums over accounts: those of the files, those that are expected, and those that the ledger posted."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping

from schemas import ImportAccount
from worker.cli.imports.accounts import TOTALS
from worker.core import Counter
from worker.core.rules.imports import payment_outcome
from worker.ledger.queries.imports import PostedImport

#: Names that a control total may have.
NAMES = ("accounts", "balance", "debt", *TOTALS, "lots", "payments", "quotas")

_COUNTERS: Mapping[str, tuple[Counter, int]] = {
    "allocated": (Counter.ALLOCATION, 1),
    "purchased": (Counter.PURCHASES, 1),
    "bonus": (Counter.BONUS, 1),
    "refunded": (Counter.REFUNDS, 1),
    "adjusted": (Counter.ADJUSTMENTS, 1),
    "used": (Counter.USAGE, -1),
    "expired": (Counter.EXPIRY, -1),
    "reversed": (Counter.REVERSALS, -1),
}


def sums_of(command: ImportAccount) -> Tally[str]:
    """Return the sums of one account, by the names of control totals."""
    totals = command.lifetime()
    return Tally(
        {
            **{name: getattr(totals, name) for name in TOTALS},
            "accounts": 1,
            "balance": command.balance,
            "debt": command.debt,
            "lots": sum(lot.tokens > 0 for lot in command.lots),
            "payments": len(command.payments),
            "quotas": sum(quota.used for quota in command.quotas),
        }
    )


def posted_sums(posted: PostedImport) -> Tally[str]:
    """Return what the ledger posted of one account, by the names that it has sums for."""
    return Tally(
        {
            **{name: sign * posted.sums.get(counter, 0) for name, (counter, sign) in _COUNTERS.items()},
            "accounts": 1,
            "balance": posted.balance,
            "payments": len(posted.payments),
            "quotas": sum(posted.quotas.values()),
        }
    )


def differences(command: ImportAccount, posted: PostedImport | None) -> Iterator[str]:
    """Yield what the ledger has otherwise than the file says."""
    if posted is None:
        yield "is not in the ledger"
        return
    here, there = sums_of(command), posted_sums(posted)
    for name in there:
        if here[name] != there[name]:
            yield f"{name} is {there[name]} in the ledger, and {here[name]} in the file"
    for payment in command.payments:
        outcome = posted.payments.get(payment.reference_id)
        stored = payment_outcome(command, payment, command.as_of)
        if outcome is not None and outcome.content != stored.content:
            yield f"payment {payment.reference_id} says something else in the ledger"
