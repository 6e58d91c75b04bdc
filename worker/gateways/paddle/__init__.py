"""Paddle Billing's events: the table of their types, each with its mapping or the reason why it has none.

A body doesn't say whether it is a test: the endpoint's secret, and so its configuration, does. Only a
simulated event has an id that tells it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from worker.gateways.mapped import Mapped, NoCommandError, Reason
from worker.gateways.paddle.adjustments import adjustment
from worker.gateways.paddle.event import PaddleEvent, PaddleRules
from worker.gateways.paddle.subscriptions import subscription
from worker.gateways.paddle.transactions import transaction
from worker.gateways.payload import Payload, mapped, require_mode

__all__ = ["PADDLE_TYPES", "PaddleRules", "map_paddle"]

_MAPPINGS: Final[Mapping[str, Callable[[PaddleEvent, PaddleRules], Mapped]]] = {
    "transaction.completed": transaction,
    "transaction.updated": transaction,
    "transaction.revised": transaction,
    "transaction.paid": transaction,
    "transaction.billed": transaction,
    "transaction.ready": transaction,
    "transaction.created": transaction,
    "transaction.canceled": transaction,
    "transaction.past_due": transaction,
    "adjustment.created": adjustment,
    "adjustment.updated": adjustment,
    "subscription.updated": subscription,
    "subscription.canceled": subscription,
    "subscription.past_due": subscription,
    "subscription.paused": subscription,
    "subscription.resumed": subscription,
}

_REPORTED_BY_TRANSACTION: Final = (
    Reason.REPORTED_ELSEWHERE,
    "transaction.completed tells which period is paid",
)

_WITHOUT: Final[Mapping[str, tuple[Reason, str]]] = {
    "transaction.payment_failed": (
        Reason.ATTEMPT_FAILED,
        "one attempt failed and credited nothing; it may still succeed",
    ),
    "subscription.created": _REPORTED_BY_TRANSACTION,
    "subscription.activated": _REPORTED_BY_TRANSACTION,
    "subscription.trialing": _REPORTED_BY_TRANSACTION,
    "subscription.imported": _REPORTED_BY_TRANSACTION,
}

#: Types that speak of payments; any other is ``unknown_type``.
PADDLE_TYPES: Final = frozenset({*_MAPPINGS, *_WITHOUT})


def map_paddle(event: Any, rules: PaddleRules) -> Mapped:
    """Return the commands of a webhook event (parsed JSON), or the reason why it gives none; never raises."""
    return mapped(lambda: _map(Payload(event, "event"), rules))


def _map(event: Payload, rules: PaddleRules) -> Mapped:
    type_ = event.text("event_type")
    if type_ not in PADDLE_TYPES:
        raise NoCommandError(Reason.UNKNOWN_TYPE, f"{type_[:100]!r} does not speak of payments")
    require_mode(rules.live and not _is_simulated(event), takes_live=rules.takes_live)
    if (without := _WITHOUT.get(type_)) is not None:
        raise NoCommandError(*without)
    return _MAPPINGS[type_](PaddleEvent.of(event), rules)


def _is_simulated(event: Payload) -> bool:
    """Return True for an event of Paddle's simulator, which signs it with the endpoint's own secret.

    Source: https://developer.paddle.com/api-reference/simulation-run-events
    """
    ids = (event.optional_text("event_id"), event.optional_text("notification_id"))
    return any(id_ is not None and id_.startswith("ntfsim") for id_ in ids)
