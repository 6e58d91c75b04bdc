"""Thresholds of a balance, and whether it has reached them."""

from worker.catalog import NoticeThreshold
from worker.core.account import Account
from worker.core.known import ALERT_DEPLETED, ALERT_LOW
from worker.core.outcomes import Detail


def compare_balance(account: Account) -> tuple[Detail, ...]:
    """Return notices of thresholds that the balance has reached, and remember which it has."""
    state, thresholds = account.state, account.catalog.notices
    available = state.balance - state.held
    low = _alerted(account, ALERT_LOW, "balance.low", thresholds.low, available)
    return low + _alerted(account, ALERT_DEPLETED, "balance.depleted", thresholds.depleted, available)


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
