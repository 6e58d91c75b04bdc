"""Subscriptions at Stripe: a paid invoice grants the period, the subscription tells what comes after it.

Whatever is granted follows the money: an unpaid change of the tier waits for the next period.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from schemas import CancelSubscription, ChangeSubscription, SubscriptionPayment
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.payload import Payload, SurpriseError
from worker.gateways.periods import PaidPeriod, only_tier
from worker.gateways.resolving import Metadata, Resolver
from worker.gateways.stripe.event import (
    PROVIDER,
    StripeEvent,
    StripeRules,
    metadata_of,
    name_of,
    require_kind,
    unix,
)

_PERIODS: Final = frozenset(
    {"subscription_create", "subscription_cycle", "subscription_update", "subscription", "quote_accept"}
)
#: Most other names of a payment, by the contract.
_ALIASES_MAX: Final = 10
#: Fields of a subscription whose change concerns the ledger.
_TELLING: Final = ("items", "plan", "status", "cancel_at_period_end", "cancel_at")

# -- invoices ---------------------------------------------------------------------------------------------


def invoice(event: StripeEvent, rules: StripeRules) -> Mapped:
    """Return the period that an invoice has paid."""
    found = event.object
    require_kind(found, "invoice")
    status = found.optional_text("status") or ("paid" if found.flag("paid") else "not paid")
    if status != "paid":
        raise NoCommandError(Reason.NOT_PAID, f"the invoice is {status}")
    why = found.optional_text("billing_reason") or _reason_of_old(found)
    if why not in _PERIODS:
        raise NoCommandError(Reason.NO_PERIOD, f"an invoice of the kind {why} pays no period")
    lines = [line for line in _lines(found) if _price_of(line) is not None]
    reference = name_of(found.id(), "paid")
    whole = [line for line in lines if not _is_proration(line)]
    paid = whole or [line for line in lines if _is_debit(line)]
    tiers = {tier for line in paid if (tier := rules.resolver.tier(_price_of(line) or "")) is not None}
    _require_no_package(found, paid, rules.resolver)
    return PaidPeriod(
        reference,
        _user(found, lines, rules.resolver),
        only_tier(tiers, reference),
        _period(whole, rules.resolver),
        _payment(found),
        renews=why == "subscription_cycle",
        at=event.created,
    ).mapped()


def _reason_of_old(found: Payload) -> str | None:
    """Return the reason of an invoice of before 2018, which tells none: it may be one of a subscription."""
    return None if found.optional_id("subscription") is None else "subscription"


def _require_no_package(found: Payload, lines: list[Payload], resolver: Resolver) -> None:
    """Raise NoCommandError where a package is paid beside the period: one payment has one reference."""
    if any(resolver.package_of_price(_price_of(line) or "") is not None for line in lines):
        raise NoCommandError(
            Reason.AMBIGUOUS, f"{found.id()} pays a subscription and a package; sell them in two payments"
        )


def _lines(found: Payload) -> list[Payload]:
    lines = found.optional_object("lines")
    return [] if lines is None else lines.objects("data")


def _price_of(line: Payload) -> str | None:
    """Return the price of a line, which three versions of the API keep in three places."""
    pricing = line.optional_object("pricing")
    details = None if pricing is None else pricing.optional_object("price_details")
    if details is not None:
        return details.optional_key("price")
    return line.optional_key("price") or line.optional_key("plan")


def _is_proration(line: Payload) -> bool:
    parent = line.optional_object("parent")
    for name in ("subscription_item_details", "invoice_item_details"):
        details = None if parent is None else parent.optional_object(name)
        if details is not None and details.flag("proration"):
            return True
    return line.flag("proration")


def _is_debit(line: Payload) -> bool:
    """Return True for a line that costs: of a proration the other one gives the old price back."""
    return line.signed("amount") > 0


def _period(lines: list[Payload], resolver: Resolver) -> tuple[datetime, datetime] | None:
    """Return the period of the line that pays the tier; the invoice's own has no length at first."""
    known = [line for line in lines if resolver.tier(_price_of(line) or "") is not None]
    for line in known or lines:
        period = line.object("period")
        start, end = period.unix_time("start"), period.unix_time("end")
        if start < end:
            return start, end
    return None


def _payment(found: Payload) -> SubscriptionPayment | None:
    """Return the payment under its best name. Where no money was taken there is none."""
    amount = found.integer("amount_paid")
    if amount == 0:
        return None
    names = [name_of(id_) for id_ in _ids_of_payment(found)]
    return SubscriptionPayment(
        reference_id=names[0],
        amount_minor=amount,
        currency=found.currency("currency"),
        also_known_as=tuple(names[1 : 1 + _ALIASES_MAX]) or None,
        provider=PROVIDER,
    )


def _ids_of_payment(found: Payload) -> list[str]:
    """Return the ids of what paid, the best one first. Several payments of one invoice are parts of it."""
    paid = _intent_and_charge(found)
    if paid:
        return [*paid, found.id()]
    parts = _parts(found)
    if len(parts) > 1:
        return [found.id(), *parts]
    return [*(parts or _intent_of_secret(found)), found.id()]


def _intent_and_charge(found: Payload) -> list[str]:
    ids = (found.optional_id("payment_intent"), found.optional_id("charge"))
    return [id_ for id_ in ids if id_ is not None]


def _parts(found: Payload) -> list[str]:
    """Return the intents and charges in ``payments``: since 2025-03-31 these are there, if any are."""
    payments = found.optional_object("payments")
    listed = [] if payments is None else payments.objects("data")
    paid = [one.object("payment") for one in listed if one.raw("status") == "paid"]
    return [id_ for one in paid for id_ in _intent_and_charge(one)]


def _intent_of_secret(found: Payload) -> list[str]:
    """Return the intent whose client secret the invoice holds: the secret begins with its id."""
    holder = found.optional_object("confirmation_secret")
    secret = None if holder is None else holder.optional_text("client_secret")
    id_, mark, _ = (secret or "").partition("_secret_")
    return [id_] if mark and id_.startswith("pi_") else []


def _user(found: Payload, lines: list[Payload], resolver: Resolver) -> str:
    metadata = [*_metadata_of(found), *(metadata_of(line) for line in lines)]
    user = resolver.user(metadata, found.optional_key("customer"))
    if user is None:
        raise NoCommandError(
            Reason.NO_USER, f"neither the metadata nor the customer of {found.id()} names a user"
        )
    return user


def _metadata_of(found: Payload) -> Iterator[Metadata]:
    yield metadata_of(found)
    for holder in (found, found.optional_object("parent")):
        details = None if holder is None else holder.optional_object("subscription_details")
        if details is not None:
            yield metadata_of(details)


# -- subscriptions ----------------------------------------------------------------------------------------


def subscription(event: StripeEvent, rules: StripeRules) -> Mapped:
    """Return what a subscription's state says about the time after the paid period."""
    found = event.object
    require_kind(found, "subscription")
    status = found.text("status")
    match status:
        case "canceled" | "unpaid":
            return _ended(event, status, rules.resolver)
        case "active" | "trialing":
            return _running(event, rules.resolver)
        case "incomplete_expired":
            # It granted nothing. An end would be that of the tier which the user has from elsewhere.
            raise NoCommandError(Reason.NOT_PAID, "the subscription was never paid, and never began")
        case "incomplete" | "past_due" | "paused":
            raise NoCommandError(Reason.NOT_PAID, f"the subscription is {status}: no period follows unpaid")
        case _:
            raise SurpriseError(f"{found.place}.status", f"{status[:40]!r} is no status of a subscription")


def _ended(event: StripeEvent, status: str, resolver: Resolver) -> Mapped:
    """Return the end. One at the end of its own period takes nothing from a period paid since."""
    found = event.object
    ended = found.optional_unix_time("ended_at") or found.optional_unix_time("canceled_at") or event.created
    period_end = _period_end(found)
    return Mapped.to(
        CancelSubscription(
            reference_id=name_of(found.id(), status, unix(ended)),
            user_id=_subscriber(found, resolver),
            at="period_end" if period_end is not None and ended >= period_end else "now",
            occurred_at=ended,
        )
    )


def _running(event: StripeEvent, resolver: Resolver) -> Mapped:
    found, changed = event.object, event.previous
    if changed is not None and not any(name in changed.names() for name in _TELLING):
        raise NoCommandError(Reason.NOTHING_CHANGED, "tier and cancellation stay as they are")
    if _ends_with_its_period(found):
        asked = found.optional_unix_time("canceled_at") or event.created
        return Mapped.to(
            CancelSubscription(
                reference_id=name_of(found.id(), "cancels", unix(asked)),
                user_id=_subscriber(found, resolver),
                at="period_end",
                occurred_at=asked,
            )
        )
    name = name_of(found.id())
    # Subscriptions of before 2015-02-16 have one plan, and no items.
    prices = (_price_of(item) for item in _items(found) or [found])
    tiers = {tier for price in prices if price and (tier := resolver.tier(price)) is not None}
    tier = only_tier(tiers, name)
    if tier is None:
        raise NoCommandError(Reason.NO_TIER, f"no price of {name} is configured as a tier")
    return Mapped.to(
        ChangeSubscription(
            reference_id=f"{name}:tier:{tier}:{unix(event.created)}",
            user_id=_subscriber(found, resolver),
            tier=tier,
            effective_at="period_end",
            occurred_at=event.created,
        )
    )


def _ends_with_its_period(found: Payload) -> bool:
    """Return True where no period follows the present one. A later end comes with a later period."""
    if found.flag("cancel_at_period_end"):
        return True
    if (at := found.optional_unix_time("cancel_at")) is None:
        return False
    period_end = _period_end(found)
    return period_end is None or at <= period_end


def _period_end(found: Payload) -> datetime | None:
    """Return the end of the present period, which the items tell since 2025-03-31."""
    ends = [one.optional_unix_time("current_period_end") for one in (found, *_items(found))]
    return max((end for end in ends if end is not None), default=None)


def _items(found: Payload) -> list[Payload]:
    items = found.optional_object("items")
    return [] if items is None else items.objects("data")


def _subscriber(found: Payload, resolver: Resolver) -> str:
    user = resolver.user([metadata_of(found)], found.optional_key("customer"))
    if user is None:
        raise NoCommandError(
            Reason.NO_USER, f"neither the metadata nor the customer of {found.id()} names a user"
        )
    return user
