"""Payments of invoices at Stripe: which intent or charge has paid which invoice.

Since API version 2025-03-31 nothing else says so: neither an invoice's event, nor its payment, nor a refund.
"""

from schemas import PaymentNamed
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.stripe.event import StripeEvent, StripeRules, name_of, require_kind


def invoice_payment(event: StripeEvent, _rules: StripeRules) -> Mapped:
    """Return the name by which refunds and disputes know the payment of an invoice.

    The invoice may be one that grants nothing: then nobody asks for its names.
    """
    found = event.object
    require_kind(found, "invoice_payment")
    if (status := found.text("status")) != "paid":
        raise NoCommandError(Reason.NOT_PAID, f"the payment is {status}")
    # The charge stands there only where it has no intent. Previews had both outside of `payment`.
    paid = found.optional_object("payment") or found
    ids = [id_ for name in ("payment_intent", "charge") if (id_ := paid.optional_id(name)) is not None]
    if not ids:
        raise NoCommandError(Reason.NOTHING_CHANGED, f"{found.id()} was paid outside of Stripe")
    return Mapped.to(
        PaymentNamed(
            reference_id=name_of(found.id(), "paid"),
            original_reference_id=name_of(found.id("invoice")),
            also_known_as=tuple(map(name_of, ids)),
            occurred_at=event.created,
        )
    )
