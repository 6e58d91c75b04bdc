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
    items = _charged(found)
    recurring = [item for item in items if is_recurring(item)]
    once = [item for item in items if not is_recurring(item)]
    if not recurring:
        return _package(event, once, rules.resolver)
    if _sells_package(found, once, rules.resolver):
        raise NoCommandError(
            Reason.AMBIGUOUS, f"{found.id()} pays a subscription and a package; sell them in two transactions"
        )
    return _period(event, recurring, rules.resolver)


def _charged(found: Payload) -> list[Payload]:
    """Return the items that cost. A proration gives others back: those have a negative quantity or amount.

    Source: https://developer.paddle.com/changelog/2024/proration-improvements
    """
    returned = _returned_prices(found)
    return [item for item in found.objects("items") if _quantity(item) > 0 and price_of(item) not in returned]


def _returned_prices(found: Payload) -> set[str]:
    """Return the prices whose lines give money back, and none of whose lines costs any."""
    details = found.optional_object("details")
    lines = [] if details is None else details.objects("line_items")
    totals: dict[str, list[int]] = {}
    for line in lines:
        price, sums = line.optional_key("price_id"), line.optional_object("totals")
        if price is not None and sums is not None:
            totals.setdefault(price, []).append(sums.optional_signed_minor("total") or 0)
    return {price for price, amounts in totals.items() if min(amounts) < 0 >= max(amounts)}


def _quantity(item: Payload) -> int:
    return item.signed("quantity") if "quantity" in item else 1


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
        (package, _quantity(item)) for item in items if (package := _package_of(item, resolver)) is not None
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
    """Return the amounts. The grand total is what was captured; credit of the customer's is a discount.

    The list price is that of the items where their currency is the one that was paid in: it holds the tax
    where the account says so, and the subtotal never does.
    """
    totals = found.object("details").object("totals")
    total = totals.signed_minor("total")
    gross = max(totals.signed_minor("grand_total") if "grand_total" in totals else total, 0)
    tax, discount = totals.optional_signed_minor("tax") or 0, totals.optional_signed_minor("discount") or 0
    subtotal = totals.optional_signed_minor("subtotal")
    if subtotal is None or min(subtotal, discount, tax, total - gross) < 0:
        return Amounts(gross)
    with_tax = _price_with_tax(found, items, subtotal, discount, tax)
    if with_tax is not None:
        return Amounts.of(gross, list_=with_tax, discount=max(with_tax - gross, 0), tax=0, other=0)
    return Amounts.of(gross, list_=subtotal, discount=discount + total - gross, tax=tax, other=0)


def _price_with_tax(
    found: Payload, items: list[Payload], subtotal: int, discount: int, tax: int
) -> int | None:
    """Return the list price where it holds the tax: the prices say so, or the account does; else None.

    An account's setting is not told: then the price is compared with what the sums come to.
    """
    priced, net = _priced(found, items), subtotal - discount
    if net <= 0:  # all is discounted, the tax as well: the price alone says what it was
        return priced
    summed = subtotal + tax + discount * tax // net
    is_theirs = priced is not None and abs(priced - summed) <= len(items) + 1  # each may be rounded
    modes = {_tax_mode(item) for item in items}
    if tax > 0 and (modes == {"internal"} or (is_theirs and "external" not in modes)):
        return priced if is_theirs else summed
    return None


def _tax_mode(item: Payload) -> str | None:
    price = item.optional_object("price")
    return None if price is None else price.optional_text("tax_mode")


def _priced(found: Payload, items: list[Payload]) -> int | None:
    """Return what the items cost by their prices; None where one is in another currency, or not told."""
    amount, currency = 0, found.currency("currency_code")
    for item in items:
        price = item.optional_object("price")
        unit = None if price is None else price.optional_object("unit_price")
        if unit is None or unit.raw("currency_code") != currency:
            return None
        amount += unit.minor("amount") * _quantity(item)
    return amount if items else None


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
