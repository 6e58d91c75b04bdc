"""Notices of an account: credit that expires soon, and a balance that falls to a threshold."""

from collections.abc import Iterator

from worker.core.account import Account
from worker.core.due import next_due
from worker.core.lots import is_notice_due
from worker.core.outcomes import Detail
from worker.core.thresholds import compare_balance


def write_notices(account: Account) -> tuple[Detail, ...]:
    """Return the notices that are due after a command, and remember that they are written."""
    expiring: tuple[Detail, ...] = ()
    if account.is_due:
        expiring = tuple(_expiring(account))
        account.change().due_at = next_due(account)
    return expiring + compare_balance(account)


def _expiring(account: Account) -> Iterator[Detail]:
    days = account.catalog.notices.expiring_days
    for lot in account.lots.values():
        if lot.expires_at is not None and is_notice_due(lot, account.now, days):
            lot.is_noticed = True
            account.touch(lot)
            yield {
                "type": "credit.expiring",
                "lot": lot.number,
                "tokens": lot.remaining,
                "source": lot.source.value,
                "expires_at": lot.expires_at.isoformat(),
            }
