"""Tiers, packages and pricing rules for sale, as data.

The packaged default is ``catalog.toml`` beside this file; an operator's own file has the same form.
Errors name the file and the key.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.fields import INT64_MAX, Currency, Identifier
from worker.errors import ConfigurationError

Amount = Annotated[StrictInt, Field(ge=0, le=INT64_MAX)]
PositiveAmount = Annotated[StrictInt, Field(gt=0, le=INT64_MAX)]
Days = Annotated[StrictInt, Field(gt=0, le=36_500)]
Priority = Annotated[StrictInt, Field(ge=0, le=1_000)]

#: The quota that ``free_upload_bytes`` limits.
FREE_UPLOAD = "free_upload"

#: Digits of a digest that people see.
_DIGITS = 12

DEFAULT_CATALOG = Path(__file__).with_name("catalog.toml")


def short_digest(digest: str) -> str:
    """Return the digits of a catalog's digest that people see."""
    return digest[:_DIGITS]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(_Model):
    """Subscription tier: tokens granted a period (a month from opening), bytes uploaded free in one.

    ``free_units`` are free a period by quota, in the unit of its meter. Up to ``rollover_tokens`` that are
    left of a period's allocation last one period longer. A tier with ``auto_renew`` costs nothing: its
    periods follow each other without a ``subscription.renew``.
    """

    monthly_tokens: Amount
    free_upload_bytes: Amount
    free_units: Mapping[Identifier, Amount] = {}
    rollover_tokens: Amount = 0
    auto_renew: bool = False


class Rate(_Model):
    """Tokens for an amount that the buyer chooses: ``tokens`` for each ``per_minor`` units of the currency.

    A fraction of a token is rounded down.
    """

    tokens: PositiveAmount
    per_minor: PositiveAmount


Prices = Mapping[Currency, PositiveAmount]


class PriceChange(_Model):
    """Prices of a package from a moment on."""

    valid_from: datetime
    prices: Prices

    @field_validator("valid_from")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("must have an offset, such as 2026-11-22T10:15:00Z")
        return value.astimezone(UTC)

    @field_validator("prices")
    @classmethod
    def _some(cls, value: Prices) -> Prices:
        if not value:
            raise ValueError(
                "give a price, such as { USD = 1_999 }; a currency that is left out is not taken"
            )
        return value


class Package(_Model):
    """Token package: what is credited (base and bonus), and what it costs in minor units of a currency.

    ``prices`` has a price for each currency; ``price_minor`` and ``currency`` say the same for one. Of
    ``changes`` the latest counts that was valid when the payment occurred. A package with ``rates`` in place
    of prices credits tokens by the amount. The tokens expire so many days after the purchase, or never.
    """

    id: Identifier
    tokens: Amount = 0
    bonus_tokens: Amount = 0
    price_minor: PositiveAmount | None = None
    currency: Currency | None = None
    prices: Prices = {}
    changes: tuple[PriceChange, ...] = ()
    rates: Mapping[Currency, Rate] = {}
    valid_days: Days | None = None
    bonus_valid_days: Days | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.price_minor is None) != (self.currency is None):
            raise ValueError("give price_minor and currency together, or prices = { USD = 1_999 }")
        forms = [self.price_minor is not None, bool(self.prices), bool(self.rates)]
        if sum(forms) != 1:
            raise ValueError("give a package one of price_minor with currency, prices, and rates")
        if self.rates and (self.tokens or self.bonus_tokens or self.changes):
            raise ValueError("a package with rates has no tokens, bonus_tokens and changes of its own")
        if not self.rates and not self.tokens:
            raise ValueError("tokens: give what the package credits")
        moments = [change.valid_from for change in self.changes]
        if twice := next((moment for moment in moments if moments.count(moment) > 1), None):
            raise ValueError(f"changes: two changes are valid from {twice.isoformat()}; make them one")
        return self

    def prices_at(self, moment: datetime) -> Prices:
        """Return the prices in minor units that were valid at ``moment`` (aware), by currency."""
        changed = [change for change in self.changes if change.valid_from <= moment]
        if changed:
            return max(changed, key=attrgetter("valid_from")).prices
        if self.price_minor is not None and self.currency is not None:
            return {self.currency: self.price_minor}
        return self.prices


class PricingRule(_Model):
    """Price of a meter: ``tokens`` for each ``per`` units, by its ``rounding``, at least ``minimum_tokens``.

    Free units count against the tier's quota of that name, by default the meter's own.
    """

    unit: Identifier
    per: PositiveAmount
    tokens: Amount
    rounding: Literal["up", "down", "half_even"] = "up"
    minimum_tokens: Amount = 0
    quota: Identifier | None = None


class Priorities(_Model):
    """Order in which credit is spent: the lower number first, then the sooner expiry, then the older lot."""

    allocation: Priority = 10
    bonus: Priority = 20
    purchase_bonus: Priority = 20
    refund: Priority = 30
    adjustment: Priority = 40
    purchase: Priority = 50
    carried_over: Priority = 50


class PaymentPolicy(_Model):
    """Rules for a payment that goes back, for an open dispute, and for what was paid.

    ``when_spent``: with ``debt`` the balance goes below zero and the next credit repays it; with
    ``write_off`` what is missing is recorded and not claimed any more. ``on_dispute``: with ``take`` an open
    dispute alone takes the tokens, with ``hold`` it keeps what is unspent of the payment for at most
    ``dispute_hold_days``, with ``wait`` it does nothing. ``price_check`` compares the list price of a payment
    with the catalog's; where it differs, ``on_mismatch`` rejects the payment, or credits it and tells
    operators. An event that waits for its payment longer than ``waiting_days`` is shown to operators.
    """

    when_spent: Literal["debt", "write_off"] = "debt"
    on_dispute: Literal["wait", "take", "hold"] = "wait"
    dispute_hold_days: Days = 365
    price_check: Literal["exact", "at_least", "off"] = "exact"
    on_mismatch: Literal["reject", "credit_and_flag"] = "reject"
    waiting_days: Days = 3


class RefundPolicy(_Model):
    """Permission for a refund that names no usage: ``refuse`` or ``allow``."""

    unbound: Literal["refuse", "allow"] = "refuse"


class NoticeThreshold(_Model):
    """Threshold of a notice: sent at or below ``at``, and again only after ``again_from`` or more."""

    at: Amount
    again_from: PositiveAmount

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.again_from <= self.at:
            raise ValueError(f"again_from must be more than at ({self.at})")
        return self


class Notices(_Model):
    """Triggers of notices; None, or 0 days, is never. Allocations end with their period unannounced."""

    low: NoticeThreshold | None = None
    depleted: NoticeThreshold | None = None
    expiring_days: Annotated[StrictInt, Field(ge=0, le=365)] = 0


class Catalog(_Model):
    """All that is for sale. Packages keep their order: the position is the seed's ``packageIndex``.

    A user's first usage, credit or payment opens a missing account on the tier ``auto_open``; without one,
    only ``account.open`` does.
    """

    tiers: Mapping[Identifier, Tier]
    auto_open: Identifier | None = None
    packages: tuple[Package, ...]
    pricing: Mapping[Identifier, PricingRule] = {}
    priorities: Priorities = Priorities()
    payments: PaymentPolicy = PaymentPolicy()
    refunds: RefundPolicy = RefundPolicy()
    notices: Notices = Notices()

    @model_validator(mode="after")
    def _unique_packages(self) -> Self:
        ids = [package.id for package in self.packages]
        if twice := next((id_ for id_ in ids if ids.count(id_) > 1), None):
            raise ValueError(f"packages: the id {twice!r} is given twice")
        return self

    @model_validator(mode="after")
    def _known_quotas(self) -> Self:
        metered = {rule.quota or meter for meter, rule in self.pricing.items()}
        granted = {FREE_UPLOAD} | {name for tier in self.tiers.values() for name in tier.free_units}
        for name, tier in self.tiers.items():
            if stray := next((quota for quota in tier.free_units if quota not in metered), None):
                raise ValueError(f"tiers.{name}.free_units: no meter counts against {stray!r}")
        for meter, rule in self.pricing.items():
            if rule.quota is not None and rule.quota not in granted:
                raise ValueError(f"pricing.{meter}.quota: no tier has free units of {rule.quota!r}")
        return self

    @model_validator(mode="after")
    def _known_auto_open(self) -> Self:
        if self.auto_open is not None and self.auto_open not in self.tiers:
            raise ValueError(f"auto_open: there is no tier {self.auto_open!r}; name one, or leave it out")
        return self

    def __copy__(self) -> Self:
        """Return a copy without what was computed of this one: ``model_copy`` changes it then."""
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids that commands may name: of tiers, packages and quotas."""
        quotas = {FREE_UPLOAD} | {rule.quota or meter for meter, rule in self.pricing.items()}
        return frozenset({*self.tiers, *self._by_id, *quotas})

    @cached_property
    def content(self) -> str:
        """The catalog as canonical JSON, with all defaults: equal catalogs have equal texts."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``content``, by which a catalog is named; comments and spaces in a file don't count."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def short_digest(self) -> str:
        """The digits of ``digest`` that people see."""
        return short_digest(self.digest)

    @cached_property
    def _by_id(self) -> dict[str, Package]:
        return {package.id: package for package in self.packages}

    def package(self, package_id: str | None, index: int | None) -> Package | None:
        """Return the package of that id, or at that position (from 0); None where there is none."""
        if package_id is not None:
            return self._by_id.get(package_id)
        if index is not None and index < len(self.packages):
            return self.packages[index]
        return None


def load_catalog(path: Path | None = None) -> Catalog:
    """Return the catalog in ``path``, or the packaged default.

    Raises ConfigurationError that names the file and the key.
    """
    source = DEFAULT_CATALOG if path is None else path
    try:
        return Catalog.model_validate(_toml_in(source))
    except ValidationError as error:
        problems = "; ".join(_problem(item["loc"], item["msg"]) for item in error.errors(include_url=False))
        raise ConfigurationError(f"catalog {source}: {problems}") from error


def _toml_in(source: Path) -> Any:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"catalog {source}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ConfigurationError(f"catalog {source}: is not TOML: {error}") from error


def _problem(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location if part != "[key]")
    text = message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
