"""Export of an account from the ledger in memory, as a team would write it down to move elsewhere."""

from datetime import datetime
from typing import Any

from schemas import ImportAccount
from tests.support.fake_ledger import FakeLedger
from worker.core import Lot, Source
from worker.core.calendars import present_period
from worker.core.known import Payment


def exported(ledger: FakeLedger, user: str, now: datetime, **more: Any) -> ImportAccount:
    """Return the import of an account without open holds, nothing of which is due at ``now``."""
    state = ledger.accounts[user]
    payments = [paid for paid in ledger.payments if paid.account_id == state.account_id]
    lots = ledger.lots_of(user)
    period = present_period(state, now)
    assert not state.held
    assert not any(lot.pending for lot in lots)
    return ImportAccount.model_validate(
        {
            "referenceId": f"import-{user}",
            "userId": user,
            "tier": state.tier,
            "anchor": state.anchor.isoformat(),
            "openedAt": state.anchor.isoformat(),
            "asOf": now.isoformat(),
            "lots": [
                fields for lot in lots if (fields := _lot(lot, payments, state.granted_until)) is not None
            ],
            "debt": state.debt,
            "totals": {
                name: getattr(state, name)
                for name in (
                    "allocated",
                    "purchased",
                    "bonus",
                    "refunded",
                    "adjusted",
                    "used",
                    "expired",
                    "reversed",
                )
            },
            "quotas": [
                {"meter": key.meter, "used": quota.used}
                for key, quota in ledger.quotas.items()
                if key.account_id == state.account_id and key.period_start == period.key
            ],
            "payments": [_payment(paid) for paid in payments],
            **more,
        }
    )


def _lot(lot: Lot, payments: list[Payment], period_end: datetime) -> dict[str, Any] | None:
    """Return a lot that counts: one with something left, or of the present period's allocation."""
    paid = next((paid for paid in payments if paid.operation_id == lot.operation_id), None)
    is_heir = lot.source is Source.ALLOCATION and lot.parent is not None
    is_period = lot.source is Source.ALLOCATION and not is_heir and lot.expires_at == period_end
    if not lot.remaining and not is_period:
        return None
    source = Source.CARRIED_OVER if is_heir else lot.source
    fields: dict[str, Any] = {"source": source.value, "tokens": lot.remaining, "priority": lot.priority}
    if lot.expires_at is not None:
        fields["expiresAt"] = lot.expires_at.isoformat()
    if paid is not None and lot.source in (Source.PURCHASE, Source.PURCHASE_BONUS):
        fields["paymentReferenceId"] = paid.reference_id
    elif is_period:
        fields["granted"] = lot.granted
    return fields


def _payment(paid: Payment) -> dict[str, Any]:
    return {
        "referenceId": paid.reference_id,
        "amountMinor": paid.amount_minor,
        "currency": paid.currency,
        "packageId": paid.package_id,
        "tokens": paid.base_tokens,
        "bonusTokens": paid.bonus_tokens,
        "paidAt": (paid.occurred_at or paid.recorded_at).isoformat(),
    }
