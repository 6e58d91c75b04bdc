"""Parts that all mappings of Stripe's events share: the event, the rules, the names of objects."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from worker.gateways.mapped import NoCommandError, Reason
from worker.gateways.payload import Payload, SurpriseError
from worker.gateways.resolving import Metadata, Resolver

PROVIDER = "stripe"


class PaymentSource(StrEnum):
    """The object that tells a payment; the others, which tell the same one, are passed over."""

    PAYMENT_INTENT = "payment_intent"
    CHECKOUT_SESSION = "checkout_session"
    CHARGE = "charge"


@dataclass(frozen=True, slots=True)
class StripeRules:
    """Rules of one endpoint: the source of payments, and whether live events are taken, or tests."""

    resolver: Resolver
    source: PaymentSource = PaymentSource.PAYMENT_INTENT
    takes_live: bool = True


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """Event with its object. ``previous`` has the fields that changed, where the event says so."""

    object: Payload
    created: datetime
    previous: Payload | None

    @classmethod
    def of(cls, event: Payload) -> Self:
        """Return the event. Raises SurpriseError."""
        data = event.object("data")
        return cls(
            data.object("object"), event.unix_time("created"), data.optional_object("previous_attributes")
        )


def require_kind(found: Payload, kind: str) -> None:
    """Raise SurpriseError where the object says that it is of another kind."""
    if (said := found.optional_text("object")) not in (None, kind):
        raise SurpriseError(f"{found.place}.object", f"must be {kind}, is {said}")


def name_of(id_: str, *transition: str | int) -> str:
    """Return the reference of an object, or of a transition of it."""
    return ":".join([PROVIDER, id_, *map(str, transition)])


def payment_of(found: Payload) -> str:
    """Return the name of the payment that an object is about, by whichever id it carries."""
    id_ = found.optional_id("payment_intent") or found.optional_id("charge")
    if id_ is None:
        raise NoCommandError(Reason.NO_PAYMENT, f"{found.place} has neither a payment_intent nor a charge")
    return name_of(id_)


def metadata_of(found: Payload, name: str = "metadata") -> Metadata:
    """Return the metadata of an object; an absent one is empty."""
    inner = found.optional_object(name)
    value: Metadata = {} if inner is None else found.raw(name)
    return value


def unix(moment: datetime) -> int:
    """Return whole seconds since 1970."""
    return int(moment.timestamp())
