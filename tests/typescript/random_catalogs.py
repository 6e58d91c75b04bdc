"""Random terms of a catalog, for random conversations: as the worker reads them, and as the fake does."""

from datetime import UTC, datetime
from random import Random
from typing import Any

from pydantic.alias_generators import to_camel

from worker.catalog import (
    Catalog,
    Notices,
    NoticeThreshold,
    PaymentPolicy,
    PriceChange,
    Priorities,
    RefundPolicy,
    load_catalog,
)

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def catalog_of(seed: int) -> Catalog:
    """Return the packaged catalog on random terms; of each third conversation on its own."""
    packaged, chance = load_catalog(), Random(f"terms {seed}")
    if seed % 3 == 0:
        return packaged
    low = NoticeThreshold(at=2_000, again_from=3_000)
    terms = {
        "auto_open": chance.choice((None, "free")),
        "payments": PaymentPolicy(
            when_spent=chance.choice(("debt", "write_off")),
            on_dispute=chance.choice(("wait", "take", "hold")),
            dispute_hold_days=chance.choice((5, 365)),
            price_check=chance.choice(("exact", "at_least", "off")),
            on_mismatch=chance.choice(("reject", "credit_and_flag")),
        ),
        "refunds": RefundPolicy(unbound=chance.choice(("refuse", "allow"))),
        "notices": Notices(expiring_days=chance.choice((0, 7, 30)), low=chance.choice((None, low))),
        "priorities": chance.choice((Priorities(), Priorities(purchase=1, bonus=90))),
    }
    change = PriceChange(valid_from=datetime(2026, 1, 31, 14, tzinfo=UTC), prices={"USD": 500})
    starter = packaged.packages[0].model_copy(update={"changes": (change,)})
    return packaged.model_copy(update=terms | {"packages": (starter, *packaged.packages[1:])})


def fake_catalog(catalog: Catalog) -> dict[str, Any]:
    """Return a catalog as the fake of the TypeScript client takes it."""
    terms = ("payments", "refunds", "notices", "priorities")
    packages = [
        {
            **_camel(package.model_dump(mode="json", exclude={"price_minor", "currency"}, exclude_none=True)),
            "index": index,
            "prices": package.prices_at(_LONG_AGO),
            "changes": [_camel(change.model_dump(mode="json")) for change in package.changes],
        }
        for index, package in enumerate(catalog.packages)
    ]
    return {
        "packages": packages,
        **({} if catalog.auto_open is None else {"autoOpen": catalog.auto_open}),
        **{name: _camel(getattr(catalog, name).model_dump(mode="json")) for name in terms},
    }


def _camel(value: Any) -> Any:
    """Return a value with its fields in camelCase; currencies and sources stay as they are."""
    if not isinstance(value, dict):
        return value
    kept = Priorities.model_fields
    return {
        name if name.isupper() or name in kept else to_camel(name): _camel(one) for name, one in value.items()
    }
