"""Price of an operation, by the catalog it was judged with, which the ledger keeps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select

from worker.catalog import Catalog, Package, short_digest
from worker.core import Outcome
from worker.ledger.queries.views import View
from worker.ledger.tables import catalogs


@dataclass(frozen=True)
class CatalogView(View):
    """Catalog that an outcome was judged with; ``is_in_use`` where it is the one of whoever asks."""

    digest: str
    is_in_use: bool

    @property
    def short(self) -> str:
        """The first digits of its digest."""
        return short_digest(self.digest)

    def __str__(self) -> str:
        """Return the digest for people."""
        return f"{self.short} ({'in use' if self.is_in_use else 'another is in use'})"


@dataclass(frozen=True)
class PriceView(View):
    """Price of an operation: in words, and what the catalog said about it.

    ``terms`` are the catalog's own, by its names: of the meter, the package or the tier. They are None where
    the catalog is unknown, has none, or has no say.
    """

    text: str
    terms: Mapping[str, Any] | None


def catalogs_by_key(
    connection: Connection, outcomes: Sequence[Outcome], in_use: Catalog
) -> Mapping[int | None, CatalogView]:
    """Return the catalogs of ``outcomes``, by their keys."""
    keys = {outcome.catalog_id for outcome in outcomes if outcome.catalog_id is not None}
    if not keys:
        return {}
    statement = select(catalogs.c.catalog_id, catalogs.c.digest).where(
        catalogs.c.catalog_id.in_(sorted(keys))
    )
    return {
        key: CatalogView(digest, digest == in_use.digest) for key, digest in connection.execute(statement)
    }


def price_of(connection: Connection, outcome: Outcome) -> PriceView | None:
    """Return the price of an outcome; None for a command that has none."""
    content: Mapping[str, Any] = json.loads(outcome.content)
    catalog = _kept(connection, outcome.catalog_id)
    if (meter := content.get("meter")) is not None:
        return _of_meter(catalog, meter, outcome)
    if "packageId" in content or "packageIndex" in content:
        return _of_package(catalog, content)
    if (tier := content.get("tier") or outcome.detail.get("tier")) is not None:
        return _of_tier(catalog, str(tier))
    if (tokens := content.get("tokens")) is not None:
        return PriceView(f"{_tokens(tokens)}, as the command says", None)
    return None


def _kept(connection: Connection, catalog_id: int | None) -> Catalog | None:
    """Return a catalog that is kept; None where it is unknown, or in a form of another version."""
    if catalog_id is None:
        return None
    statement = select(catalogs.c.content).where(catalogs.c.catalog_id == catalog_id)
    try:
        return Catalog.model_validate_json(connection.execute(statement).scalar_one())
    except ValidationError:
        return None


def _of_meter(catalog: Catalog | None, meter: str, outcome: Outcome) -> PriceView:
    rule = None if catalog is None else catalog.pricing.get(meter)
    quantity, free = outcome.detail.get("quantity"), outcome.detail.get("free_quantity")
    amount = f"{quantity:,} {meter}" if isinstance(quantity, int) else meter
    if free:
        amount += f", {free:,} of them free"
    if rule is None:
        return PriceView(f"{amount}; {_unknown(catalog, 'rule for it')}", None)
    least = f", at least {rule.minimum_tokens:,}" if rule.minimum_tokens else ""
    terms = f"{_tokens(rule.tokens)} for each {rule.per:,}, rounded {rule.rounding}{least}"
    return PriceView(f"{amount}; {terms}", rule.model_dump(mode="json"))


def _of_package(catalog: Catalog | None, content: Mapping[str, Any]) -> PriceView:
    name, index = content.get("packageId"), content.get("packageIndex")
    package = None if catalog is None else catalog.package(name, index)
    named = f"package {name}" if name is not None else f"package number {index}"
    if package is None:
        return PriceView(f"{named}; {_unknown(catalog, 'such package')}", None)
    return PriceView(_in_words(package), package.model_dump(mode="json"))


def _in_words(package: Package) -> str:
    if package.rates:
        return f"package {package.id}: tokens by the amount paid"
    bonus = f" and {package.bonus_tokens:,} bonus" if package.bonus_tokens else ""
    return f"package {package.id}: {_tokens(package.tokens)}{bonus}"


def _of_tier(catalog: Catalog | None, name: str) -> PriceView:
    tier = None if catalog is None else catalog.tiers.get(name)
    if tier is None:
        return PriceView(f"tier {name}; {_unknown(catalog, 'such tier')}", None)
    return PriceView(f"tier {name}: {_tokens(tier.monthly_tokens)} a period", tier.model_dump(mode="json"))


def _unknown(catalog: Catalog | None, what: str) -> str:
    return "the catalog of that time is unknown" if catalog is None else f"the catalog had no {what}"


def _tokens(number: int) -> str:
    return "1 token" if number == 1 else f"{number:,} tokens"
