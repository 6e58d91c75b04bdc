"""Transactions at Paddle: a completed one pays a package, or a period of a subscription."""

from datetime import datetime

from schemas import PaymentSucceeded, SubscriptionPayment
from worker.gateways.amounts import Amounts
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.paddle.event import (
    PROVIDER,
    PaddleEvent,
    PaddleRules,
    custom_data_of,
    is_recurring,
    name_of,
    price_of,
    user_of,
)
from worker.gateways.payload import Payload
from worker.gateways.periods import PaidPeriod, only_tier
from worker.gateways.resolving import Resolver


def transaction(event: PaddleEvent, rules: PaddleRules) -> Mapped:
    """Return what a completed transaction has paid, whatever the event is called."""
    found = event.data
    if (status := found.text("status")) != "completed":
        raise NoCommandError(Reason.NOT_PAID, f"the transaction is {status}; transaction.completed tells it")
    items = found.objects("items")
    recurring = [item for item in items if is_recurring(item)]
    once = [item for item in items if not is_recurring(item)]
    if not recurring:
        return _package(event, once, rules.resolver)
    if _sells_package(found, once, rules.resolver):
        raise NoCommandError(
            Reason.AMBIGUOUS, f"{found.id()} pays a subscription and a package; sell them in two transactions"
        )
    return _period(event, recurring, rules.resolver)


# -- packages ---------------------------------------------------------------------------------------------


def _package(event: PaddleEvent, items: list[Payload], resolver: Resolver) -> Mapped:
    found = event.data
    package, quantity = _bought(found, items, resolver)
    amounts = _amounts(found, items)
    return Mapped.to(
        PaymentSucceeded(
            reference_id=name_of(found.id()),
            user_id=user_of(found, resolver),
            package_id=package,
            quantity=None if quantity == 1 else quantity,
            amount_minor=amounts.gross,
            currency=found.currency("currency_code"),
            list_minor=amounts.list_,
            tax_minor=amounts.tax,
            discount_minor=amounts.discount,
            other_minor=amounts.other,
            provider=PROVIDER,
            occurred_at=_paid_at(event),
        )
    )


def _bought(found: Payload, items: list[Payload], resolver: Resolver) -> tuple[str, int | None]:
    """Return package and quantity: those of the custom data, or of the one item that sells a package."""
    custom = custom_data_of(found)
    if (package := resolver.package(custom)) is not None:
        return package, resolver.quantity(custom)
    sold = [
        (package, item.integer("quantity") if "quantity" in item else 1)
        for item in items
        if (package := _package_of(item, resolver)) is not None
    ]
    if not sold:
        raise NoCommandError(
            Reason.NO_PACKAGE, f"neither the custom data nor a price of {found.id()} names one"
        )
    if len({package for package, _ in sold}) > 1:
        raise NoCommandError(
            Reason.AMBIGUOUS, f"{found.id()} buys several packages; sell them in transactions of their own"
        )
    return sold[0][0], sum(quantity for _, quantity in sold)


def _package_of(item: Payload, resolver: Resolver) -> str | None:
    price = price_of(item)
    if price is not None and (package := resolver.package_of_price(price)) is not None:
        return package
    expanded = item.optional_object("price")
    return None if expanded is None else resolver.package(custom_data_of(expanded))


def _sells_package(found: Payload, items: list[Payload], resolver: Resolver) -> bool:
    return any(_package_of(item, resolver) is not None for item in items) or (
        bool(items) and resolver.package(custom_data_of(found)) is not None
    )


def _amounts(found: Payload, items: list[Payload]) -> Amounts:
    """Return the amounts. The grand total is what was captured; credit of the customer's is a discount."""
    totals = found.object("details").object("totals")
    total = totals.minor("total")
    gross = totals.minor("grand_total") if "grand_total" in totals else total
    tax = totals.optional_minor("tax") or 0
    subtotal = totals.optional_minor("subtotal")
    discount = (totals.optional_minor("discount") or 0) + max(total - gross, 0)
    if subtotal is not None and items and all(_includes_tax(item) for item in items):
        subtotal += tax  # the catalog's price is one with tax then
        return Amounts.of(gross, list_=subtotal, discount=discount, tax=0, other=0)
    return Amounts.of(gross, list_=subtotal, discount=discount, tax=tax, other=0)


def _includes_tax(item: Payload) -> bool:
    price = item.optional_object("price")
    return price is not None and price.raw("tax_mode") == "internal"


def _paid_at(event: PaddleEvent) -> datetime:
    """Return the time of the capture. The payments hold all attempts, failed ones too."""
    captured = [
        at
        for payment in event.data.objects("payments")
        if payment.raw("status") == "captured" and (at := payment.optional_time("captured_at")) is not None
    ]
    return max(captured, default=event.occurred_at)


# -- subscriptions ----------------------------------------------------------------------------------------


def _period(event: PaddleEvent, items: list[Payload], resolver: Resolver) -> Mapped:
    found = event.data
    reference, origin = name_of(found.id(), "paid"), found.optional_text("origin")
    if origin == "subscription_payment_method_change":
        raise NoCommandError(Reason.NO_MONEY, "the transaction only changes the way to pay")
    prices = (price_of(item) for item in items)
    tiers = {tier for price in prices if price and (tier := resolver.tier(price)) is not None}
    return PaidPeriod(
        reference,
        user_of(found, resolver),
        only_tier(tiers, reference),
        # A proration pays for the rest of a period that goes on.
        None if origin == "subscription_update" else _billing_period(found),
        _payment(found),
        renews=origin == "subscription_recurring",
        at=_paid_at(event),
    ).mapped()


def _billing_period(found: Payload) -> tuple[datetime, datetime] | None:
    period = found.optional_object("billing_period")
    if period is None:
        return None
    start, end = period.time("starts_at"), period.time("ends_at")
    return (start, end) if start < end else None


def _payment(found: Payload) -> SubscriptionPayment | None:
    amount = _amounts(found, []).gross
    if amount == 0:
        return None
    return SubscriptionPayment(
        reference_id=name_of(found.id()),
        amount_minor=amount,
        currency=found.currency("currency_code"),
        provider=PROVIDER,
    )
