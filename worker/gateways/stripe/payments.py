"""Payments at Stripe, which an intent, a session and a charge tell: the one that is the source counts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schemas import PaymentSucceeded
from worker.gateways.amounts import Amounts
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.payload import Payload
from worker.gateways.resolving import Metadata, Resolver
from worker.gateways.stripe.event import (
    PROVIDER,
    PaymentSource,
    StripeEvent,
    StripeRules,
    metadata_of,
    name_of,
    require_kind,
)

#: Statuses of a charge that has succeeded; before 2015-02-18 it was called paid.
_CHARGED: Final = frozenset({"succeeded", "paid"})


def payment_intent(event: StripeEvent, rules: StripeRules) -> Mapped:
    """Return the payment of an intent that has succeeded, with what was received."""
    intent = event.object
    require_kind(intent, "payment_intent")
    _require_source(rules, PaymentSource.PAYMENT_INTENT)
    if (status := intent.text("status")) != "succeeded":
        raise NoCommandError(Reason.NOT_PAID, f"the intent is {status}")
    _require_no_invoice(intent)
    _require_no_order_of_invoice(intent, rules.resolver)
    return _payment(
        _Paid(
            id=intent.id(),
            amounts=Amounts(intent.integer("amount_received")),
            currency=intent.currency("currency"),
            metadata=metadata_of(intent),
            customer=intent.optional_key("customer"),
            other=_charge_of(intent),
            at=event.created,
        ),
        rules.resolver,
    )


def _require_no_invoice(found: Payload) -> None:
    if found.optional_id("invoice") is not None:
        raise NoCommandError(Reason.REPORTED_ELSEWHERE, "invoice.paid tells the payment of an invoice")


def _require_no_order_of_invoice(intent: Payload, resolver: Resolver) -> None:
    """Raise NoCommandError where the order is an invoice, as since 2025-03-31; a team may set another."""
    details = intent.optional_object("payment_details")
    order = None if details is None else details.optional_text("order_reference")
    if order is not None and order.startswith("in_") and resolver.package(metadata_of(intent)) is None:
        raise NoCommandError(Reason.REPORTED_ELSEWHERE, f"invoice.paid tells the payment of {order[:40]}")


def _charge_of(intent: Payload) -> str | None:
    """Return the charge that took the money; before 2022-11-15 an intent lists all of its charges."""
    if (latest := intent.optional_id("latest_charge")) is not None:
        return latest
    charges = intent.optional_object("charges")
    paid = [] if charges is None else [one for one in charges.objects("data") if one.flag("paid")]
    return paid[0].id() if paid else None


def charge(event: StripeEvent, rules: StripeRules) -> Mapped:
    """Return the payment of a charge that is captured."""
    found = event.object
    require_kind(found, "charge")
    _require_source(rules, PaymentSource.CHARGE)
    if found.text("status") not in _CHARGED or not found.flag("paid") or not found.flag("captured"):
        raise NoCommandError(Reason.NOT_PAID, "the charge is not captured")
    _require_no_invoice(found)
    captured = found.optional_integer("amount_captured")
    intent = found.optional_id("payment_intent")
    return _payment(
        _Paid(
            id=intent or found.id(),
            amounts=Amounts(found.integer("amount") if captured is None else captured),
            currency=found.currency("currency"),
            metadata=metadata_of(found),
            customer=found.optional_key("customer"),
            other=found.id() if intent else None,
            at=event.created,
        ),
        rules.resolver,
    )


def checkout_session(event: StripeEvent, rules: StripeRules) -> Mapped:
    """Return the payment of a session that is paid; one that nothing else tells, whatever the source."""
    session = event.object
    require_kind(session, "checkout.session")
    _require_one_off(session)
    intent = session.optional_id("payment_intent")
    if intent is not None and "payment_status" not in session:  # of old
        _require_source(rules, PaymentSource.CHECKOUT_SESSION)
    _require_paid(session)
    if intent is not None:
        _require_source(rules, PaymentSource.CHECKOUT_SESSION)
    return _payment(
        _Paid(
            id=intent or session.id(),
            amounts=_session_amounts(session),
            currency=session.currency("currency"),
            metadata=metadata_of(session),
            customer=session.optional_key("customer"),
            other=session.id() if intent else None,
            at=event.created,
            user=session.optional_text("client_reference_id"),
        ),
        rules.resolver,
    )


def _require_one_off(session: Payload) -> None:
    mode = session.optional_text("mode")
    if mode == "setup":
        raise NoCommandError(Reason.NO_MONEY, "the session only saves a way to pay")
    if mode == "subscription" or session.optional_id("subscription") is not None:
        raise NoCommandError(Reason.REPORTED_ELSEWHERE, "invoice.paid tells which period is paid")


def _require_paid(session: Payload) -> None:
    """Raise NoCommandError for an unpaid session. One that needs no payment is free, or is paid later."""
    status = session.text("payment_status")
    is_free = status == "no_payment_required" and session.integer("amount_total") == 0
    if status != "paid" and not is_free:
        raise NoCommandError(
            Reason.NOT_PAID, f"the session is {status}; checkout.session.async_payment_* tells its end"
        )


def _session_amounts(session: Payload) -> Amounts:
    details = session.optional_object("total_details")
    if details is None:
        return Amounts(session.integer("amount_total"))
    return Amounts.of(
        session.integer("amount_total"),
        list_=session.optional_integer("amount_subtotal"),
        discount=details.optional_integer("amount_discount") or 0,
        tax=details.optional_integer("amount_tax") or 0,
        other=details.optional_integer("amount_shipping") or 0,
    )


def _require_source(rules: StripeRules, source: PaymentSource) -> None:
    if rules.source is not source:
        raise NoCommandError(
            Reason.REPORTED_ELSEWHERE, f"the {rules.source} tells payments here (setting `source`)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paid:
    """Payment as one of its objects shows it; ``other`` is another one's id, ``user`` is named outright."""

    id: str
    amounts: Amounts
    currency: str
    metadata: Metadata
    customer: str | None
    other: str | None
    at: datetime
    user: str | None = None


def _payment(paid: _Paid, resolver: Resolver) -> Mapped:
    package, user = resolver.package(paid.metadata), resolver.user([paid.metadata], None) or paid.user
    if package is None:
        # Intents of invoices have no metadata, and since 2025-03-31 no word of the invoice either.
        reason = Reason.NOT_OURS if user is None else Reason.NO_PACKAGE
        raise NoCommandError(reason, f"the metadata of {paid.id} names no package")
    user = user or resolver.user([], paid.customer)
    if user is None:
        raise NoCommandError(
            Reason.NO_USER, f"neither the metadata nor the customer of {paid.id} names a user"
        )
    quantity = resolver.quantity(paid.metadata)
    return Mapped.to(
        PaymentSucceeded(
            reference_id=name_of(paid.id),
            user_id=user,
            package_id=package,
            quantity=None if quantity == 1 else quantity,
            amount_minor=paid.amounts.gross,
            currency=paid.currency,
            list_minor=paid.amounts.list_,
            tax_minor=paid.amounts.tax,
            discount_minor=paid.amounts.discount,
            other_minor=paid.amounts.other,
            provider=PROVIDER,
            also_known_as=None if paid.other is None else (name_of(paid.other),),
            occurred_at=paid.at,
        )
    )
