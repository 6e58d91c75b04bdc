"""Parts that all mappings of Paddle's events share: the event, the rules, the names of objects."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from worker.gateways.mapped import NoCommandError, Reason
from worker.gateways.payload import Payload
from worker.gateways.resolving import Metadata, Resolver

PROVIDER = "paddle"


@dataclass(frozen=True, slots=True)
class PaddleRules:
    """Rules of one endpoint: whether its events are ``live`` ones, and whether those are taken, or tests."""

    resolver: Resolver
    live: bool = True
    takes_live: bool = True


@dataclass(frozen=True, slots=True)
class PaddleEvent:
    """Event with its object."""

    data: Payload
    occurred_at: datetime

    @classmethod
    def of(cls, event: Payload) -> Self:
        """Return the event. Raises SurpriseError."""
        return cls(event.object("data"), event.time("occurred_at"))


def name_of(id_: str, *transition: str | int) -> str:
    """Return the reference of an object, or of a transition of it."""
    return ":".join([PROVIDER, id_, *map(str, transition)])


def custom_data_of(found: Payload) -> Metadata:
    """Return the custom data of an object; an absent one is empty."""
    inner = found.optional_object("custom_data")
    value: Metadata = {} if inner is None else found.raw("custom_data")
    return value


def user_of(found: Payload, resolver: Resolver) -> str:
    """Return the user that the custom data or the customer names."""
    user = resolver.user([custom_data_of(found)], found.optional_key("customer_id"))
    if user is None:
        raise NoCommandError(
            Reason.NO_USER, f"neither the custom data nor the customer of {found.id()} names a user"
        )
    return user


def price_of(item: Payload) -> str | None:
    """Return the price of an item, which is expanded in newer events."""
    return item.optional_key("price") or item.optional_key("price_id")


def is_recurring(item: Payload) -> bool:
    """Return True for an item of a subscription: its price has a billing cycle."""
    price = item.optional_object("price")
    return price is not None and price.optional_object("billing_cycle") is not None


def unix(moment: datetime) -> int:
    """Return whole seconds since 1970."""
    return int(moment.timestamp())
