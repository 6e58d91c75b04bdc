"""Stripe's events: the table of their types, each with its mapping or with the reason why it has none."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.payload import Payload, SurpriseError, mapped, require_mode
from worker.gateways.stripe.event import PaymentSource, StripeEvent, StripeRules
from worker.gateways.stripe.invoice_payments import invoice_payment
from worker.gateways.stripe.payments import charge, checkout_session, payment_intent
from worker.gateways.stripe.reversals import dispute, fraud_warning, refund
from worker.gateways.stripe.subscriptions import invoice, subscription

__all__ = ["STRIPE_TYPES", "PaymentSource", "StripeRules", "map_stripe"]

_MAPPINGS: Final[Mapping[str, Callable[[StripeEvent, StripeRules], Mapped]]] = {
    "payment_intent.succeeded": payment_intent,
    "checkout.session.completed": checkout_session,
    "checkout.session.async_payment_succeeded": checkout_session,
    "charge.succeeded": charge,
    "charge.captured": charge,
    "charge.updated": charge,
    "refund.created": refund,
    "refund.updated": refund,
    "refund.failed": refund,
    "charge.refund.updated": refund,
    "charge.dispute.created": dispute,
    "charge.dispute.updated": dispute,
    "charge.dispute.closed": dispute,
    "charge.dispute.funds_withdrawn": dispute,
    "charge.dispute.funds_reinstated": dispute,
    "radar.early_fraud_warning.created": fraud_warning,
    "radar.early_fraud_warning.updated": fraud_warning,
    "invoice.paid": invoice,
    "invoice_payment.paid": invoice_payment,
    "customer.subscription.updated": subscription,
    "customer.subscription.deleted": subscription,
    "customer.subscription.paused": subscription,
    "customer.subscription.resumed": subscription,
}

_ATTEMPT: Final = Reason.ATTEMPT_FAILED, "one attempt failed and credited nothing; it may still succeed"
_NOT_PAID: Final = Reason.NOT_PAID, "no money has been taken yet"
_REPORTED_BY_INVOICE: Final = Reason.REPORTED_ELSEWHERE, "invoice.paid tells which period is paid"
_UNCHANGED: Final = Reason.NOTHING_CHANGED, "tier and cancellation stay as they are"

_WITHOUT: Final[Mapping[str, tuple[Reason, str]]] = {
    "charge.refunded": (Reason.REPORTED_ELSEWHERE, "it is cumulative and has no refund id; refund.* tell it"),
    "payment_intent.payment_failed": _ATTEMPT,
    "payment_intent.canceled": _NOT_PAID,
    "payment_intent.created": _NOT_PAID,
    "payment_intent.processing": _NOT_PAID,
    "payment_intent.requires_action": _NOT_PAID,
    "payment_intent.partially_funded": _NOT_PAID,
    "payment_intent.amount_capturable_updated": _NOT_PAID,
    "checkout.session.async_payment_failed": _ATTEMPT,
    "checkout.session.expired": _NOT_PAID,
    "charge.failed": _ATTEMPT,
    "charge.pending": _NOT_PAID,
    "charge.expired": _NOT_PAID,
    "invoice.payment_succeeded": _REPORTED_BY_INVOICE,
    "invoice.payment_failed": _ATTEMPT,
    "invoice.payment_action_required": _NOT_PAID,
    "invoice.created": _NOT_PAID,
    "invoice.finalized": _NOT_PAID,
    "invoice.updated": _REPORTED_BY_INVOICE,
    "invoice.upcoming": _NOT_PAID,
    "invoice.voided": _NOT_PAID,
    "invoice.deleted": _NOT_PAID,
    "invoice.sent": _NOT_PAID,
    "invoice.overdue": _NOT_PAID,
    "invoice.will_be_due": _NOT_PAID,
    "invoice.finalization_failed": _NOT_PAID,
    "invoice.payment_attempt_required": _NOT_PAID,
    "invoice.overpaid": _REPORTED_BY_INVOICE,
    "invoice.marked_uncollectible": _NOT_PAID,
    "customer.subscription.created": _REPORTED_BY_INVOICE,
    "customer.subscription.pending_update_applied": _REPORTED_BY_INVOICE,
    "customer.subscription.pending_update_expired": _UNCHANGED,
    "customer.subscription.trial_will_end": _UNCHANGED,
}

#: Types that speak of payments; any other is ``unknown_type``.
STRIPE_TYPES: Final = frozenset({*_MAPPINGS, *_WITHOUT})


def map_stripe(event: Any, rules: StripeRules) -> Mapped:
    """Return the commands of a webhook event (parsed JSON), or the reason why it gives none; never raises."""
    return mapped(lambda: _map(Payload(event, "event"), rules))


def _map(event: Payload, rules: StripeRules) -> Mapped:
    type_ = event.text("type")
    if event.raw("object") == "v2.core.event" and type_.removeprefix("v1.") in STRIPE_TYPES:
        raise SurpriseError("event.data", "a thin event holds no object; choose the snapshot payload style")
    if type_ not in STRIPE_TYPES:
        raise NoCommandError(Reason.UNKNOWN_TYPE, f"{type_[:100]!r} does not speak of payments")
    require_mode(event.flag("livemode"), takes_live=rules.takes_live)
    if (without := _WITHOUT.get(type_)) is not None:
        raise NoCommandError(*without)
    return _MAPPINGS[type_](StripeEvent.of(event), rules)
