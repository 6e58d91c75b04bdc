"""Adjustments at Paddle: money that goes back, disputes, and their reversals.

Nothing links a chargeback with its reversal but the transaction: the dispute's name is made of that. A
warning is a dispute of its own, so that its end does not end a chargeback.
"""

from datetime import datetime
from typing import Literal

from schemas import DisputeClosed, PaymentDisputed, PaymentRefunded, RefundFailed
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.paddle.event import PaddleEvent, PaddleRules, name_of, unix
from worker.gateways.payload import Payload, SurpriseError


def adjustment(event: PaddleEvent, _rules: PaddleRules) -> Mapped:
    """Return what an adjustment does to its transaction, by its action and status."""
    found = event.data
    action, status = found.text("action"), found.text("status")
    if status not in ("pending_approval", "approved", "rejected", "reversed"):
        raise SurpriseError(f"{found.place}.status", f"{status[:40]!r} is no status of an adjustment")
    if status == "pending_approval":
        raise NoCommandError(Reason.PENDING, "the adjustment is not approved yet")
    if status == "approved" and not action.endswith("_reverse"):
        _require_money(found)
    stands = status == "approved"
    match action:
        case "credit" if _is_proration(found):
            raise NoCommandError(
                Reason.NO_MONEY, "the credit pays a change of the subscription; none went back"
            )
        case "refund" | "credit":
            return _refund(event) if stands else _refund_failed(event)
        case "chargeback":
            return _chargeback(event, stands=stands, status=status)
        case "chargeback_reverse":
            return _reverse(event, "dispute", "won", stands=stands)
        case "chargeback_warning":
            return _warning(event) if stands else _reverse(event, "warning", "withdrawn", stands=True)
        case "chargeback_warning_reverse":
            return _reverse(event, "warning", "withdrawn", stands=stands)
        case "credit_reverse":
            raise NoCommandError(
                Reason.NO_ORIGINAL, f"{found.id()} takes a credit back and does not say which one"
            )
        case _:
            raise SurpriseError(f"{found.place}.action", f"{action[:40]!r} is no action of an adjustment")


def _require_money(found: Payload) -> None:
    if found.object("totals").minor("total") == 0:
        raise NoCommandError(Reason.NO_MONEY, f"{found.id()} moves nothing")


def _is_proration(found: Payload) -> bool:
    """Return True for the rest of a period, which Paddle credited before 2024-03-11 to pay the next one."""
    items = found.objects("items")
    return bool(items) and all(item.raw("type") == "proration" for item in items)


def _refund(event: PaddleEvent) -> Mapped:
    found = event.data
    totals = found.object("totals")
    if totals.optional_minor("subtotal") == 0 and totals.minor("total") > 0:
        raise NoCommandError(Reason.TAX_ONLY, "tax went back, and nothing of the price")
    return Mapped.to(
        PaymentRefunded(
            reference_id=name_of(found.id()),
            original_reference_id=_transaction(found),
            amount_minor=totals.minor("total"),
            currency=found.currency("currency_code"),
            occurred_at=found.time("created_at"),
        )
    )


def _refund_failed(event: PaddleEvent) -> Mapped:
    found = event.data
    return Mapped.to(
        RefundFailed(
            reference_id=name_of(found.id(), "failed"),
            original_reference_id=_transaction(found),
            refund_reference_id=name_of(found.id()),
            occurred_at=_updated_at(event),
        )
    )


def _chargeback(event: PaddleEvent, *, stands: bool, status: str) -> Mapped:
    """Return the loss. Its money is gone when Paddle tells it; one that is reversed is won."""
    if status == "rejected":
        raise NoCommandError(Reason.NO_MONEY, "the chargeback was rejected")
    if not stands:
        return _closed(event, "dispute", "won", _updated_at(event), 0)
    amount = event.data.object("totals").minor("total")
    return _closed(event, "dispute", "lost", event.data.time("created_at"), amount)


def _warning(event: PaddleEvent) -> Mapped:
    found = event.data
    return Mapped.to(
        PaymentDisputed(
            reference_id=name_of(found.id(), "opened"),
            original_reference_id=_transaction(found),
            dispute_id=f"{_transaction(found)}:warning",
            stage="inquiry",
            amount_minor=found.object("totals").minor("total"),
            currency=found.currency("currency_code"),
            occurred_at=found.time("created_at"),
        )
    )


def _reverse(
    event: PaddleEvent, dispute: str, result: Literal["won", "withdrawn"], *, stands: bool
) -> Mapped:
    if not stands:
        raise NoCommandError(Reason.NO_MONEY, "the reversal does not stand")
    return _closed(event, dispute, result, event.data.time("created_at"), 0)


def _closed(
    event: PaddleEvent,
    dispute: str,
    result: Literal["won", "lost", "withdrawn"],
    at: datetime,
    amount: int,
) -> Mapped:
    found = event.data
    return Mapped.to(
        DisputeClosed(
            reference_id=name_of(found.id(), "closed", result, unix(at)),
            original_reference_id=_transaction(found),
            dispute_id=f"{_transaction(found)}:{dispute}",
            result=result,
            amount_minor=amount,
            currency=found.currency("currency_code"),
            occurred_at=at,
        )
    )


def _transaction(found: Payload) -> str:
    id_ = found.optional_id("transaction_id")
    if id_ is None:
        raise NoCommandError(Reason.NO_PAYMENT, f"{found.id()} names no transaction")
    return name_of(id_)


def _updated_at(event: PaddleEvent) -> datetime:
    return event.data.optional_time("updated_at") or event.occurred_at
