"""Result of mapping an event: commands, or the reason why there are none."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from schemas import Command


class Reason(StrEnum):
    """Reasons for an event to give no command; the names are stable, and labels of a metric."""

    UNKNOWN_TYPE = "unknown_type"  #: the event's type is none that speaks of payments
    MALFORMED = "malformed"  #: a field is missing, or is not what the gateway documents
    WRONG_MODE = "wrong_mode"  #: a test event at a live endpoint, or a live event at a test endpoint
    REPORTED_ELSEWHERE = "reported_elsewhere"  #: another event tells the same, and is the one that counts
    NOT_PAID = "not_paid"  #: no money has moved yet
    ATTEMPT_FAILED = "attempt_failed"  #: one attempt to pay failed; it credited nothing, and may be repeated
    PENDING = "pending"  #: a refund or dispute is not decided; its decision will be told
    NO_MONEY = "no_money"  #: no money moves: a set-up, an uncaptured charge, an amount of zero
    TAX_ONLY = "tax_only"  #: tax went back and nothing of the price
    NOTHING_CHANGED = "nothing_changed"  #: the change touches no tier and no cancellation
    NO_PERIOD = "no_period"  #: the invoice pays no period of a subscription
    NOT_OURS = "not_ours"  #: the metadata names neither user nor package: another product's payment
    NO_USER = "no_user"  #: neither the metadata nor the customer names a user
    NO_PACKAGE = "no_package"  #: neither the metadata nor a price names a package
    NO_TIER = "no_tier"  #: no price of the subscription is configured as a tier
    AMBIGUOUS = "ambiguous"  #: one payment buys several things, and only one can have its reference
    NO_PAYMENT = "no_payment"  #: the object names no payment
    NO_ORIGINAL = "no_original"  #: the object does not say which earlier one it takes back

    @property
    def needs_attention(self) -> bool:
        """True where money may have moved without tokens: a person should look."""
        return self in _ATTENTION


_ATTENTION = frozenset(
    {
        Reason.MALFORMED,
        Reason.NO_USER,
        Reason.NO_PACKAGE,
        Reason.NO_TIER,
        Reason.AMBIGUOUS,
        Reason.NO_PAYMENT,
        Reason.NO_ORIGINAL,
    }
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Commands of an event; without any, the ``reason``, with a ``detail`` for people."""

    commands: tuple[Command, ...] = ()
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def to(cls, *commands: Command) -> Self:
        """Return a result with commands."""
        return cls(commands)

    @classmethod
    def nothing(cls, reason: Reason, detail: str) -> Self:
        """Return a result without commands."""
        return cls((), reason, detail)


class NoCommandError(Exception):
    """Ends the mapping of an event that gives no command."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
