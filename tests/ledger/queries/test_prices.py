"""Prices in an explanation: by the catalog that the command was judged with, whatever it is today."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schemas import Command
from tests.support import commands
from tests.support.apply_commands import applied
from tests.support.query_samples import NOW, on_sqlite
from worker.catalog import Catalog, load_catalog
from worker.ledger.queries import Reader
from worker.ledger.queries.prices import PriceView

PRICED: dict[str, tuple[Command, str]] = {
    "a meter": (
        commands.record("ocr", 3, reference_id="r"),
        "3 ocr; 120 tokens for each 1, rounded up, at least 120",
    ),
    "a free part": (
        commands.record("upload", 5, reference_id="r"),
        "5 upload, 5 of them free; 10 tokens for each 1,048,576, rounded up",
    ),
    "an unknown meter": (commands.record("fax", 3, reference_id="r"), "fax; the catalog had no rule for it"),
    "a package": (
        commands.payment(1_999, "USD", package_id="standard", reference_id="r"),
        "package standard: 250,000 tokens and 25,000 bonus",
    ),
    "an unknown package": (
        commands.payment(1_999, "USD", package_id="gone", reference_id="r"),
        "package gone; the catalog had no such package",
    ),
    "a tier": (commands.change("pro", reference_id="r", user_id="u"), "tier pro: 500,000 tokens a period"),
    "tokens": (commands.deduct(1, reference_id="r", user_id="u"), "1 token, as the command says"),
}


@pytest.fixture
def catalog() -> Catalog:
    return load_catalog()


def price(engine: Engine, catalog: Catalog) -> PriceView | None:
    return Reader(engine).explain("r", NOW, catalog).price


@on_sqlite
@pytest.mark.parametrize(("command", "words"), PRICED.values(), ids=PRICED)
def test_price_is_in_words(engine: Engine, catalog: Catalog, command: Command, words: str) -> None:
    applied(engine, catalog, commands.opening("open", "u", "free"), command, now=NOW)
    found = price(engine, catalog)
    assert found is not None
    assert found.text == words


def _cheaper(catalog: Catalog) -> Catalog:
    rule = catalog.pricing["ocr"].model_copy(update={"tokens": 1, "minimum_tokens": 0})
    return catalog.model_copy(update={"pricing": {**catalog.pricing, "ocr": rule}})


@on_sqlite
def test_price_is_that_of_its_time(engine: Engine, catalog: Catalog) -> None:
    today = _cheaper(catalog)
    usage = commands.record("ocr", 10**7, reference_id="r")
    applied(engine, catalog, commands.opening("open", "u", "free"), usage, now=NOW)
    applied(engine, today, usage.model_copy(update={"attempt": 2}), now=NOW)
    view = Reader(engine).explain("r", NOW, today)
    assert [(one.attempt, one.catalog and one.catalog.is_in_use) for one in view.outcomes] == [
        (1, False),
        (2, True),
    ]
    assert view.outcomes[0].catalog is not None
    assert view.outcomes[0].catalog.digest == catalog.digest
    assert view.price is not None
    assert view.price.terms == today.pricing["ocr"].model_dump(mode="json")
    assert view.to_dict()["price"]["text"] == "10,000,000 ocr; 1 token for each 1, rounded up"


UNREADABLE: dict[str, Callable[[], str]] = {
    "an operation of an earlier version": lambda: "UPDATE operations SET catalog_id = NULL",
    "a catalog of another version": lambda: "UPDATE catalogs SET content = '{\"tiers\": 1}'",
}


@on_sqlite
@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_catalog_that_is_unknown_is_said_to_be(
    engine: Engine, catalog: Catalog, change: Callable[[], str]
) -> None:
    usage = commands.record("ocr", 3, reference_id="r")
    applied(engine, catalog, commands.opening("open", "u", "free"), usage, now=NOW)
    with engine.begin() as connection:
        for trigger in ("operations_catalog", "operations_final", "catalogs_not_updated"):
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        connection.execute(text(change()))
    found: Any = price(engine, catalog)
    assert found == PriceView("3 ocr; the catalog of that time is unknown", None)
