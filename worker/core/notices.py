"""Notices of an account: credit that expires soon, and a balance that falls to a threshold."""

from collections.abc import Iterator

from worker.catalog import NoticeThreshold
from worker.core.account import Account
from worker.core.due import next_due
from worker.core.known import ALERT_DEPLETED, ALERT_LOW
from worker.core.lots import is_notice_due
from worker.core.outcomes import Detail


def write_notices(account: Account) -> tuple[Detail, ...]:
    """Return the notices that are due after a command, and remember that they are written."""
    expiring: tuple[Detail, ...] = ()
    if account.is_due:
        expiring = tuple(_expiring(account))
        account.change().due_at = next_due(account)
    return expiring + compare_balance(account)


def compare_balance(account: Account) -> tuple[Detail, ...]:
    """Return notices of thresholds that the balance has reached, and remember which it has."""
    state, thresholds = account.state, account.catalog.notices
    available = state.balance - state.held
    low = _alerted(account, ALERT_LOW, "balance.low", thresholds.low, available)
    return low + _alerted(account, ALERT_DEPLETED, "balance.depleted", thresholds.depleted, available)


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


def _alerted(
    account: Account, alert: int, kind: str, threshold: NoticeThreshold | None, available: int
) -> tuple[Detail, ...]:
    """Return the notice of a crossing; another one only after a recovery."""
    if threshold is None:
        return ()
    if account.state.alerts & alert:
        if available >= threshold.again_from:
            account.change().alerts &= ~alert
    elif available <= threshold.at:
        account.change().alerts |= alert
        return ({"type": kind, "available": available, "mark": threshold.at},)
    return ()
