"""The command that brings an account of another system into the ledger, with what it had at one moment."""

from collections import Counter as Tally
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, model_validator

from schemas.base import BaseCommand, BaseMessage
from schemas.fields import Currency, Identifier, Label, UtcTimestamp
from schemas.parsing import shown

#: Most lots, payments and quotas of one account that is imported.
LOTS_MAX: Final = 200
PAYMENTS_MAX: Final = 500
QUOTAS_MAX: Final = 50
#: Most tokens, units or minor units of money in one field, and most tokens that came in, in all.
AMOUNT_MAX: Final = 10**15
CREDITED_MAX: Final = 10**16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _since_1970(value: datetime) -> datetime:
    if value < _EPOCH:
        raise ValueError("lies before 1970; send the true time")
    return value


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must be 0 or more")
    return value


PastTimestamp = Annotated[UtcTimestamp, AfterValidator(_since_1970)]
ImportedTokens = Annotated[StrictInt, Field(gt=0, le=AMOUNT_MAX)]
ImportedAmount = Annotated[
    StrictInt, Field(le=AMOUNT_MAX, json_schema_extra={"minimum": 0}), AfterValidator(_not_negative)
]
ImportedSum = Annotated[StrictInt, Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]

#: Origins of a lot. ``purchase_bonus`` belongs to a payment; ``carried_over`` is of an unknown origin.
ImportedSource = Literal[
    "allocation", "purchase", "purchase_bonus", "bonus", "refund", "adjustment", "carried_over"
]


class _Part(BaseMessage):
    """A part of an import: a JSON object inside its message."""

    @model_validator(mode="before")
    @classmethod
    def _within_fields(cls, value: Any) -> Any:
        # Before the fields are validated: an error was made for each of tens of thousands.
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            names = ", ".join(sorted(info.alias or name for name, info in cls.model_fields.items()))
            raise ValueError(f"has {len(value)} fields; known are {names}")
        return value

    def content(self) -> dict[str, Any]:
        """Return the fields by their names on the wire, without absent ones; times are text."""
        return {
            info.alias or name: value.isoformat() if isinstance(value, datetime) else value
            for name, info in sorted(type(self).model_fields.items())
            if (value := getattr(self, name)) is not None
        }


class ImportedLot(_Part):
    """Credit: ``tokens`` are left of ``granted`` (by default no more were), until ``expires_at``.

    The allocation of the present period should say what it granted, also where nothing is left: an upgrade
    grants what the new tier has more. A lot of ``payment_reference_id`` is what is left of that payment's
    tokens, or of its bonus.
    """

    source: ImportedSource
    tokens: ImportedAmount
    granted: ImportedTokens | None = None
    expires_at: UtcTimestamp | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=1_000)] | None = None
    payment_reference_id: Identifier | None = None

    @property
    def brought(self) -> int:
        """Return the tokens that the lot was granted."""
        return self.tokens if self.granted is None else self.granted

    @model_validator(mode="after")
    def _no_more_than_granted(self) -> Self:
        if self.granted is not None and self.granted < self.tokens:
            raise ValueError(f"granted {self.granted} tokens, of which {self.tokens} can't be left")
        if self.payment_reference_id is None:
            if self.brought == 0:
                raise ValueError("nothing is left: say what it was granted, or leave the lot out")
            if self.source == "purchase_bonus":
                raise ValueError(
                    "a purchase_bonus belongs to a payment: name it in paymentReferenceId, or say bonus"
                )
        elif self.source not in ("purchase", "purchase_bonus"):
            raise ValueError("a lot of a payment is its purchase or its purchase_bonus")
        elif self.granted is not None:
            raise ValueError("a lot of a payment was granted what the payment says; leave granted out")
        return self


class ImportedTotals(_Part):
    """Lifetime sums of the account. ``adjusted`` and ``reversed`` may be negative."""

    allocated: ImportedAmount = 0
    purchased: ImportedAmount = 0
    bonus: ImportedAmount = 0
    refunded: ImportedAmount = 0
    adjusted: ImportedSum = 0
    used: ImportedAmount = 0
    expired: ImportedAmount = 0
    reversed: ImportedSum = 0

    @property
    def balance(self) -> int:
        """Return the balance that follows from the sums."""
        came = self.allocated + self.purchased + self.bonus + self.refunded + self.adjusted
        return came - self.used - self.expired - self.reversed


class ImportedPayment(_Part):
    """Payment that was taken before, under its own id, with the tokens it bought: it may go back later."""

    reference_id: Identifier
    amount_minor: ImportedTokens
    currency: Currency
    package_id: Identifier
    tokens: ImportedTokens
    bonus_tokens: ImportedAmount = 0
    paid_at: PastTimestamp
    provider: Label | None = None


class ImportedQuota(_Part):
    """Used part of a quota in the present period: a meter's, or ``free_upload`` in bytes."""

    meter: Identifier
    used: ImportedAmount


class ImportAccount(BaseCommand):
    """Opens an account with all that it had in another system at ``as_of``. Grants nothing by itself.

    Periods count from ``anchor``; the allocation of the period at ``as_of`` counts as granted. ``totals``
    must come to the balance: the tokens of all ``lots`` less ``debt``. Without them everything that is left
    came in as its lots say, and nothing else ever did. A payment is an operation of its own, under its
    reference, and can be refunded or disputed later. What has fallen due since ``as_of`` is posted at once.
    """

    CONTENT = (
        "tier",
        "anchor",
        "opened_at",
        "as_of",
        "lots",
        "debt",
        "totals",
        "quotas",
        "payments",
    )
    type: Literal["account.import"] = "account.import"
    tier: Identifier
    opened_at: PastTimestamp
    anchor: PastTimestamp
    as_of: PastTimestamp
    lots: Annotated[tuple[ImportedLot, ...], Field(max_length=LOTS_MAX)] = ()
    debt: ImportedAmount = 0
    totals: ImportedTotals | None = None
    quotas: Annotated[tuple[ImportedQuota, ...], Field(max_length=QUOTAS_MAX)] = ()
    payments: Annotated[tuple[ImportedPayment, ...], Field(max_length=PAYMENTS_MAX)] = ()

    def content(self) -> dict[str, Any]:
        """Return the fields that move the ledger by their names on the wire, without absent ones."""
        return {name: _plain(value) for name, value in super().content().items()}

    @property
    def balance(self) -> int:
        """Return the balance at ``as_of``."""
        return sum(lot.tokens for lot in self.lots) - self.debt

    def lots_of(self, payment: ImportedPayment) -> dict[str, ImportedLot]:
        """Return what is left of a payment, by source."""
        return {lot.source: lot for lot in self.lots if lot.payment_reference_id == payment.reference_id}

    def own_lots(self) -> list[ImportedLot]:
        """Return the lots that belong to no payment."""
        return [lot for lot in self.lots if lot.payment_reference_id is None]

    def named(self) -> dict[str, int]:
        """Return the tokens that lots and payments were granted, by the total that counts them."""
        sums = dict.fromkeys(_TOTAL_OF.values(), 0)
        for lot in self.own_lots():
            sums[_TOTAL_OF[lot.source]] += lot.brought
        for payment in self.payments:
            sums["purchased"] += payment.tokens
            sums["bonus"] += payment.bonus_tokens
        return sums

    def lifetime(self) -> ImportedTotals:
        """Return the totals; where none are given, those that lots, payments and debt come to."""
        if self.totals is not None:
            return self.totals
        named = self.named()
        named["adjusted"] += named.pop(_ANY)
        return ImportedTotals.model_construct(None, **named, used=sum(named.values()) - self.balance)

    @model_validator(mode="after")
    def _true_in_itself(self) -> Self:
        self._refuse_late_times()
        self._refuse_stray_lots()
        self._refuse_copies()
        if self.debt and self.balance != -self.debt:
            raise ValueError(
                f"there is a debt of {self.debt}, and lots with tokens: a debt is repaid with them first; "
                "send what is left after that"
            )
        self._refuse_sums()
        return self

    def _refuse_late_times(self) -> None:
        for name, moment in (("openedAt", self.opened_at), ("anchor", self.anchor)):
            if moment > self.as_of:
                raise ValueError(f"{name} {moment.isoformat()} is after asOf {self.as_of.isoformat()}")
        for place, payment in enumerate(self.payments):
            if payment.paid_at > self.as_of:
                raise ValueError(
                    f"payments.{place}.paidAt {payment.paid_at.isoformat()} is after asOf "
                    f"{self.as_of.isoformat()}: send it as payment.succeeded"
                )

    def _refuse_stray_lots(self) -> None:
        payments = {payment.reference_id: payment for payment in self.payments}
        seen: set[tuple[str, str]] = set()
        for place, lot in enumerate(self.lots):
            begins = self.opened_at
            if (named := lot.payment_reference_id) is not None:
                payment = payments.get(named)
                if payment is None:
                    raise ValueError(f"lots.{place}: payments does not list its payment {shown(named)!r}")
                if (named, lot.source) in seen:
                    raise ValueError(
                        f"lots.{place}: the payment {shown(named)!r} has another {lot.source} lot"
                    )
                seen.add((named, lot.source))
                bought = payment.tokens if lot.source == "purchase" else payment.bonus_tokens
                if lot.tokens > bought:
                    raise ValueError(
                        f"lots.{place}: {lot.tokens} tokens can't be left of the {bought} that the payment "
                        f"{shown(named)!r} gave as {lot.source}"
                    )
                begins = payment.paid_at
            if lot.expires_at is not None and lot.expires_at <= begins:
                raise ValueError(f"lots.{place}: expiresAt must be after {begins.isoformat()}")

    def _refuse_copies(self) -> None:
        references = [payment.reference_id for payment in self.payments]
        if self.reference_id in references:
            raise ValueError("a payment has the referenceId of the import; each needs one of its own")
        for name, values in (("payments", references), ("quotas", [q.meter for q in self.quotas])):
            if (twice := next((one for one, count in Tally(values).items() if count > 1), None)) is not None:
                raise ValueError(f"{name}: {shown(twice)!r} is given twice")

    def _refuse_sums(self) -> None:
        totals, named = self.lifetime(), self.named()
        if (difference := totals.balance - self.balance) != 0:
            raise ValueError(
                f"totals come to a balance of {totals.balance}, but lots and debt to {self.balance}: "
                f"the difference is {difference}"
            )
        unknown = named.pop(_ANY)
        rest = 0
        for name, tokens in named.items():
            total = getattr(totals, name)
            if name == "adjusted":  # a sum of both signs: more may have come in by it
                rest += max(total - tokens, 0)
            elif tokens > total:
                raise ValueError(
                    f"lots and payments were granted {tokens} tokens that totals.{name} counts, which is "
                    f"only {total}: the difference is {tokens - total}"
                )
            else:
                rest += total - tokens
        rest += max(-totals.reversed, 0)
        if unknown > rest and self.totals is not None:
            raise ValueError(
                f"lots of carried_over were granted {unknown} tokens, but no more than {rest} came in "
                "beside the other lots"
            )
        if sum(named.values()) + rest > CREDITED_MAX:
            raise ValueError(f"more than {CREDITED_MAX} tokens came in; that is no true sum")


#: The total that counts what a lot was granted; the origin of ``carried_over`` is any of them.
_ANY = "any"
_TOTAL_OF: Mapping[str, str] = {
    "allocation": "allocated",
    "purchase": "purchased",
    "purchase_bonus": "bonus",
    "bonus": "bonus",
    "refund": "refunded",
    "adjustment": "adjusted",
    "carried_over": _ANY,
}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [part.content() for part in value]
    return value.content() if isinstance(value, _Part) else value
