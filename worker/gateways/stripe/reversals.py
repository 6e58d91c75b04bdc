"""Money that goes back at Stripe: refunds, disputes, and the warnings before them."""

from typing import Final

from schemas import DisputeClosed, FreezeAccount, PaymentDisputed, PaymentRefunded, RefundFailed
from schemas.fields import TEXT_MAX
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.payload import Payload, SurpriseError
from worker.gateways.stripe.event import StripeEvent, StripeRules, name_of, payment_of, require_kind, unix

_OPEN: Final = {
    "warning_needs_response": "inquiry",
    "warning_under_review": "inquiry",
    "needs_response": "chargeback",
    "under_review": "chargeback",
}
_APPEALED: Final = frozenset({"appeal_needs_response", "appeal_under_review"})
#: Results by status. An inquiry that is closed took nothing: it is as good as won.
_CLOSED: Final = {
    "won": "won",
    "warning_closed": "won",
    "prevented": "prevented",
    "charge_refunded": "prevented",  # of old
    "lost": "lost",
}


def refund(event: StripeEvent, _rules: StripeRules) -> Mapped:
    """Return a refund that succeeded, or its end where it failed or was canceled."""
    found = event.object
    require_kind(found, "refund")
    if found.optional_text("reason") == "expired_uncaptured_charge":
        raise NoCommandError(Reason.NO_MONEY, "the charge was never captured")
    name, status = name_of(found.id()), found.optional_text("status")
    match status:
        case "succeeded" if found.integer("amount") == 0:
            raise NoCommandError(Reason.NO_MONEY, f"{name} gave nothing back")
        case "succeeded":
            return Mapped.to(
                PaymentRefunded(
                    reference_id=name,
                    original_reference_id=payment_of(found),
                    amount_minor=found.integer("amount"),
                    currency=found.currency("currency"),
                    occurred_at=found.unix_time("created"),
                )
            )
        case "failed" | "canceled":
            return Mapped.to(
                RefundFailed(
                    reference_id=f"{name}:failed",
                    original_reference_id=payment_of(found),
                    refund_reference_id=name,
                    occurred_at=event.created,
                )
            )
        case "pending" | "requires_action" | None:
            raise NoCommandError(Reason.PENDING, f"the refund is {status or 'of no status yet'}")
        case _:
            raise SurpriseError(f"{found.place}.status", f"{status[:40]!r} is no status of a refund")


def dispute(event: StripeEvent, _rules: StripeRules) -> Mapped:
    """Return the opening or the closing of a dispute by its status, whatever the event is called."""
    found = event.object
    require_kind(found, "dispute")
    status = found.text("status")
    if status in _OPEN:
        return _opened(found, _OPEN[status])
    if status in _CLOSED:
        return _closed(event, status)
    if status in _APPEALED:
        raise NoCommandError(Reason.PENDING, f"the dispute is {status}: the loss stands until that ends")
    raise SurpriseError(f"{found.place}.status", f"{status[:40]!r} is no status of a dispute")


def _opened(found: Payload, stage: str) -> Mapped:
    """Return the opening. An inquiry may become a chargeback: these are two transitions."""
    name, amount = _dispute_name(found), found.integer("amount")
    if amount == 0:
        raise NoCommandError(Reason.NO_MONEY, f"{name} is about no money")
    return Mapped.to(
        PaymentDisputed(
            reference_id=f"{name}:{'inquiry' if stage == 'inquiry' else 'opened'}",
            original_reference_id=payment_of(found),
            dispute_id=name,
            stage="inquiry" if stage == "inquiry" else "chargeback",
            amount_minor=amount,
            currency=found.currency("currency"),
            occurred_at=found.unix_time("created"),
        )
    )


def _closed(event: StripeEvent, status: str) -> Mapped:
    """Return the closing. Its time is part of the reference: lost, won and lost again are three."""
    found, name = event.object, _dispute_name(event.object)
    result, taken = _result(found, status)
    return Mapped.to(
        DisputeClosed(
            reference_id=f"{name}:closed:{status}:{unix(event.created)}",
            original_reference_id=payment_of(found),
            dispute_id=name,
            result=result,
            amount_minor=taken,
            currency=found.currency("currency"),
            occurred_at=event.created,
        )
    )


def _result(found: Payload, status: str) -> tuple[str, int]:
    """Return the result, and what it took. A prevented dispute whose money was withdrawn is lost."""
    amount, result = found.integer("amount"), _CLOSED[status]
    if result == "prevented" and (withdrawn := _withdrawn(found)):
        return "lost", min(withdrawn, amount)
    return result, amount if result == "lost" else 0


def _withdrawn(found: Payload) -> int:
    """Return what the balance transactions took and did not give back, in the dispute's currency.

    One in another currency, that of the payout, says only that something was taken: then all of it was.
    """
    total, currency = 0, found.currency("currency")
    for one in found.objects("balance_transactions"):
        amount = one.signed("amount")
        total -= amount if one.currency("currency") == currency else _signed(found.integer("amount"), amount)
    return max(total, 0)


def _signed(size: int, like: int) -> int:
    return (like > 0) * size - (like < 0) * size


def _dispute_name(found: Payload) -> str:
    """Return the dispute's name; disputes of old have no id, and the charge and their time name them."""
    if (id_ := found.optional_id()) is not None:
        return name_of(id_)
    return name_of(found.id("charge"), "dispute", unix(found.unix_time("created")))


def fraud_warning(event: StripeEvent, _rules: StripeRules) -> Mapped:
    """Return the freeze of the account that a payment is on; no money has moved."""
    found = event.object
    require_kind(found, "radar.early_fraud_warning")
    kind = found.optional_text("fraud_type") or "unknown"  # may change: it is no part of the content
    return Mapped.to(
        FreezeAccount(
            reference_id=name_of(found.id(), "frozen"),
            payment_reference_id=payment_of(found),
            reason="early_fraud_warning",
            description=kind[:TEXT_MAX],
            occurred_at=found.unix_time("created"),
        )
    )
