"""Subscriptions at Paddle: their state tells what comes after the paid period."""

from schemas import CancelSubscription, ChangeSubscription
from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.paddle.event import PaddleEvent, PaddleRules, name_of, price_of, unix, user_of
from worker.gateways.payload import Payload, SurpriseError
from worker.gateways.periods import only_tier
from worker.gateways.resolving import Resolver


def subscription(event: PaddleEvent, rules: PaddleRules) -> Mapped:
    """Return the command for a subscription's state. An event has the whole state, never what changed."""
    found = event.data
    status = found.text("status")
    match status:
        case "canceled":
            return _ended(event, rules.resolver)
        case "active" | "trialing":
            return _running(event, rules.resolver)
        case "past_due" | "paused":
            raise NoCommandError(Reason.NOT_PAID, f"the subscription is {status}: no period follows unpaid")
        case _:
            raise SurpriseError(f"{found.place}.status", f"{status[:40]!r} is no status of a subscription")


def _ended(event: PaddleEvent, resolver: Resolver) -> Mapped:
    found = event.data
    at = found.optional_time("canceled_at") or event.occurred_at
    return Mapped.to(
        CancelSubscription(
            reference_id=name_of(found.id(), "canceled", unix(at)),
            user_id=user_of(found, resolver),
            at="now",
            occurred_at=at,
        )
    )


def _running(event: PaddleEvent, resolver: Resolver) -> Mapped:
    found = event.data
    at = found.optional_time("updated_at") or event.occurred_at
    if _will_end(found):
        return Mapped.to(
            CancelSubscription(
                reference_id=name_of(found.id(), "cancels", unix(at)),
                user_id=user_of(found, resolver),
                at="period_end",
                occurred_at=at,
            )
        )
    name = name_of(found.id())
    prices = (price_of(item) for item in found.objects("items"))
    tier = only_tier({tier for price in prices if price and (tier := resolver.tier(price)) is not None}, name)
    if tier is None:
        raise NoCommandError(Reason.NO_TIER, f"no price of {name} is configured as a tier")
    return Mapped.to(
        ChangeSubscription(
            reference_id=f"{name}:tier:{tier}:{unix(at)}",
            user_id=user_of(found, resolver),
            tier=tier,
            effective_at="period_end",
            occurred_at=at,
        )
    )


def _will_end(found: Payload) -> bool:
    """Return True where a cancellation or a pause is scheduled: no paid period follows either."""
    change = found.optional_object("scheduled_change")
    return change is not None and change.text("action") in ("cancel", "pause")
