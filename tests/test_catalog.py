"""The catalog: the packaged default, and the errors about a bad file."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from worker.catalog import DEFAULT_CATALOG, Catalog, load_catalog
from worker.errors import ConfigurationError

TIER = """
[tiers.free]
monthly_tokens = 10_000
free_upload_bytes = 0
"""
PACKAGE = """
[[packages]]
id = "starter"
tokens = 50_000
price_minor = 499
currency = "USD"
"""
PRICE = 'price_minor = 499\ncurrency = "USD"\n'
CHANGE = """
[[packages.changes]]
valid_from = 2026-12-01T00:00:00Z
prices = { USD = 599 }
"""
RULE = """
[pricing.upload]
unit = "byte"
per = 1_024
tokens = 10
"""
GOOD = TIER + PACKAGE + RULE
OPEN_AMOUNT = (
    TIER
    + """
[[packages]]
id = "open"
rates = { USD = { tokens = 100, per_minor = 1 }, JPY = { tokens = 70, per_minor = 1 } }
"""
)
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def loaded(folder: Path, text: str) -> Catalog:
    path = folder / "my-catalog.toml"
    path.write_text(text, encoding="utf-8")
    return load_catalog(path)


def test_packaged_default_loads_and_has_packages() -> None:
    catalog = load_catalog()
    assert list(catalog.tiers) == ["free", "basic", "pro", "enterprise"]
    assert [package.id for package in catalog.packages] == ["starter", "standard", "plus", "max"]
    assert catalog.pricing["upload"].rounding == "up"
    assert DEFAULT_CATALOG.is_file()


def test_larger_default_packages_cost_more_and_cost_less_per_token() -> None:
    sold = [(package, package.prices_at(NOW)["USD"]) for package in load_catalog().packages]
    assert sold == sorted(sold, key=lambda one: one[1])
    for (smaller, less), (larger, more) in pairwise(sold):
        credited = smaller.tokens + smaller.bonus_tokens, larger.tokens + larger.bonus_tokens
        assert credited[0] * more < credited[1] * less


def test_own_file_replaces_the_default_and_may_have_zeros(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, GOOD)
    assert list(catalog.tiers) == ["free"]
    assert catalog.tiers["free"].free_upload_bytes == 0
    assert catalog.packages[0].bonus_tokens == 0
    assert (catalog.pricing["upload"].rounding, catalog.pricing["upload"].minimum_tokens) == ("up", 0)


def test_omitted_setting_has_the_safe_default(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, GOOD)
    assert (catalog.payments.when_spent, catalog.payments.on_dispute) == ("debt", "wait")
    assert catalog.refunds.unbound == "refuse"
    assert (catalog.notices.low, catalog.notices.depleted, catalog.notices.expiring_days) == (None, None, 0)
    tier = catalog.tiers["free"]
    assert (tier.auto_renew, tier.rollover_tokens, tier.free_units) == (False, 0, {})
    assert catalog.packages[0].valid_days is None


def test_package_has_a_price_for_each_currency(tmp_path: Path) -> None:
    prices = "prices = { USD = 499, EUR = 459, JPY = 750 }\n"
    (package,) = loaded(tmp_path, GOOD.replace(PRICE, prices)).packages
    assert package.prices_at(NOW) == {"USD": 499, "EUR": 459, "JPY": 750}
    assert (package.price_minor, package.currency) == (None, None)


def test_price_and_currency_are_prices_of_one_currency(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD).packages[0].prices_at(NOW) == {"USD": 499}


def test_latest_change_that_is_valid_counts_whatever_its_place(tmp_path: Path) -> None:
    later = CHANGE.replace("2026-12-01T00:00:00Z", "2027-01-01T01:00:00+01:00").replace("599", "699")
    (package,) = loaded(tmp_path, GOOD.replace("[pricing", later + CHANGE + "[pricing")).packages
    second, third = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    before = timedelta(microseconds=1)
    moments = (NOW, second - before, second, third - before, third)
    assert [package.prices_at(moment)["USD"] for moment in moments] == [499, 499, 599, 599, 699]


def test_package_of_an_open_amount_has_rates_and_no_price(tmp_path: Path) -> None:
    (package,) = loaded(tmp_path, OPEN_AMOUNT).packages
    assert (package.tokens, package.prices_at(NOW)) == (0, {})
    assert (package.rates["JPY"].tokens, package.rates["JPY"].per_minor) == (70, 1)


def test_payments_are_checked_exactly_unless_the_catalog_says_otherwise(tmp_path: Path) -> None:
    policy = loaded(tmp_path, GOOD).payments
    assert (policy.price_check, policy.on_mismatch) == ("exact", "reject")
    assert (policy.dispute_hold_days, policy.waiting_days) == (365, 3)
    other = (
        GOOD
        + """
[payments]
on_dispute = "hold"
dispute_hold_days = 120
price_check = "at_least"
on_mismatch = "credit_and_flag"
waiting_days = 7
"""
    )
    policy = loaded(tmp_path, other).payments
    assert (policy.on_dispute, policy.dispute_hold_days, policy.waiting_days) == ("hold", 120, 7)
    assert (policy.price_check, policy.on_mismatch) == ("at_least", "credit_and_flag")


def test_granted_tokens_are_used_before_purchased_ones() -> None:
    priorities = load_catalog().priorities.model_dump()
    assert max(p for source, p in priorities.items() if source not in ("purchase", "carried_over")) < min(
        priorities["purchase"], priorities["carried_over"]
    )


@pytest.mark.parametrize(
    ("package_id", "index", "found"),
    [
        ("starter", None, "starter"),
        ("max", None, "max"),
        (None, 0, "starter"),
        (None, 3, "max"),
        ("Starter", None, None),
        ("", None, None),
        (None, 4, None),
        (None, 9_999, None),
        (None, None, None),
    ],
)
def test_package_is_found_by_its_id_or_its_position(
    package_id: str | None, index: int | None, found: str | None
) -> None:
    package = load_catalog().package(package_id, index)
    assert (package.id if package else None) == found


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        pytest.param("tiers = [", "", "is not TOML", id="no TOML"),
        pytest.param(GOOD + TIER, "", "is not TOML", id="a table given twice"),
        pytest.param(f"a = {'9' * 5_000}", "", "is not TOML", id="a number of no end"),
        pytest.param(f"a = {'[' * 5_000}", "", "is not TOML", id="nested too deep"),
        pytest.param("", "tiers", "Field required", id="an empty file"),
        pytest.param(TIER, "packages", "Field required", id="no packages"),
        pytest.param(PACKAGE, "tiers", "Field required", id="no tiers"),
        pytest.param("colour = 1\n" + GOOD, "colour", "not permitted", id="an unknown key"),
        pytest.param(
            GOOD.replace("monthly_tokens", "monthly_token"),
            "tiers.free.monthly_token",
            "not permitted",
            id="a misspelt key",
        ),
        pytest.param(
            GOOD.replace("price_minor", "price"),
            "packages.0.price",
            "not permitted",
            id="a key of another time",
        ),
        pytest.param(
            GOOD.replace("price_minor = 499\n", ""),
            "packages.0",
            "give price_minor and currency together, or prices = { USD = 1_999 }",
            id="a currency without a price",
        ),
        pytest.param(
            GOOD.replace('currency = "USD"\n', ""),
            "packages.0",
            "give price_minor and currency together",
            id="a price without a currency",
        ),
        pytest.param(
            GOOD.replace(PRICE, ""),
            "packages.0",
            "one of price_minor with currency, prices, and",
            id="no price",
        ),
        pytest.param(
            GOOD.replace(PRICE, PRICE + "prices = { EUR = 459 }\n"),
            "packages.0",
            "one of price_minor with currency, prices, and rates",
            id="prices in two forms",
        ),
        pytest.param(
            GOOD.replace(PRICE, "prices = { usd = 499 }\n"),
            "packages.0.prices.usd",
            "[A-Z]{3}",
            id="a small currency among prices",
        ),
        pytest.param(
            GOOD.replace(PRICE, "prices = { USD = 4.99 }\n"),
            "packages.0.prices.USD",
            "valid integer",
            id="a price in fractions among prices",
        ),
        pytest.param(
            GOOD.replace(PRICE, "prices = { USD = -1 }\n"),
            "packages.0.prices.USD",
            "greater than 0",
            id="a negative price among prices",
        ),
        pytest.param(
            GOOD.replace("[pricing", CHANGE.replace("Z", "") + "[pricing"),
            "packages.0.changes.0.valid_from",
            "must have an offset",
            id="a change of price at a time without an offset",
        ),
        pytest.param(
            GOOD.replace("[pricing", CHANGE.replace("prices", "price") + "[pricing"),
            "packages.0.changes.0.price",
            "not permitted",
            id="a change of another kind",
        ),
        pytest.param(
            GOOD.replace("[pricing", CHANGE.replace("{ USD = 599 }", "{}") + "[pricing"),
            "packages.0.changes.0.prices",
            "give a price",
            id="a change without a price",
        ),
        pytest.param(
            GOOD.replace("[pricing", CHANGE + CHANGE + "[pricing"),
            "packages.0",
            "two changes are valid from 2026-12-01T00:00:00+00:00",
            id="two changes of one time",
        ),
        pytest.param(
            GOOD.replace(PRICE, "rates = { USD = { tokens = 100, per_minor = 1 } }\n"),
            "packages.0",
            "a package with rates has no tokens",
            id="rates beside tokens",
        ),
        pytest.param(
            OPEN_AMOUNT.replace("per_minor = 1", "per_minor = 0"),
            "packages.0.rates.USD.per_minor",
            "greater than 0",
            id="a rate for nothing",
        ),
        pytest.param(
            OPEN_AMOUNT.replace("tokens = 100", "tokens = 0"),
            "packages.0.rates.USD.tokens",
            "greater than 0",
            id="a rate of nothing",
        ),
        pytest.param(
            GOOD + '[payments]\nprice_check = "loose"\n',
            "payments.price_check",
            "'exact', 'at_least' or 'off'",
            id="an unknown check of prices",
        ),
        pytest.param(
            GOOD + '[payments]\non_mismatch = "credit"\n',
            "payments.on_mismatch",
            "'reject' or 'credit_and_flag'",
            id="an unknown answer to a mismatch",
        ),
        pytest.param(
            GOOD + "[payments]\nwaiting_days = 0\n",
            "payments.waiting_days",
            "greater than 0",
            id="events that wait for no day",
        ),
        pytest.param(
            GOOD + "[payments]\ndispute_hold_days = 1.5\n",
            "payments.dispute_hold_days",
            "valid integer",
            id="half a day of a hold",
        ),
        pytest.param(
            GOOD.replace("499", "-499"), "packages.0.price_minor", "greater than 0", id="a negative price"
        ),
        pytest.param(
            GOOD.replace("499", "0"), "packages.0.price_minor", "greater than 0", id="a price of zero"
        ),
        pytest.param(
            GOOD.replace("499", "4.99"), "packages.0.price_minor", "valid integer", id="a price in fractions"
        ),
        pytest.param(GOOD.replace("499", "499.0"), "packages.0.price_minor", "valid integer", id="a float"),
        pytest.param(
            GOOD.replace("499", '"499"'), "packages.0.price_minor", "valid integer", id="a quoted price"
        ),
        pytest.param(GOOD.replace("499", "true"), "packages.0.price_minor", "valid integer", id="a boolean"),
        pytest.param(
            GOOD.replace("499", "nan"), "packages.0.price_minor", "valid integer", id="not a number"
        ),
        pytest.param(
            GOOD.replace("50_000", "0"), "packages.0", "tokens: give what the package", id="nothing for sale"
        ),
        pytest.param(
            GOOD.replace("50_000", str(2**63)),
            "packages.0.tokens",
            str(2**63 - 1),
            id="more than can be stored",
        ),
        pytest.param(
            GOOD.replace("tokens = 50_000", "tokens = 5\nbonus_tokens = -1"),
            "packages.0.bonus_tokens",
            "greater than or equal to 0",
            id="a negative bonus",
        ),
        pytest.param(
            GOOD.replace("10_000", "-1"),
            "tiers.free.monthly_tokens",
            "greater than or equal to 0",
            id="a negative allocation",
        ),
        pytest.param(
            GOOD.replace("free_upload_bytes = 0", "free_upload_bytes = 0.5"),
            "tiers.free.free_upload_bytes",
            "valid integer",
            id="half a byte",
        ),
        pytest.param(
            GOOD.replace('"USD"', '"usd"'), "packages.0.currency", "[A-Z]{3}", id="a small currency"
        ),
        pytest.param(GOOD.replace('"USD"', '"$"'), "packages.0.currency", "[A-Z]{3}", id="a currency sign"),
        pytest.param(
            GOOD.replace('"USD"', "840"), "packages.0.currency", "valid string", id="a numeric currency"
        ),
        pytest.param(
            GOOD + PACKAGE, "packages", "the id 'starter' is given twice", id="a package id given twice"
        ),
        pytest.param(GOOD.replace('"starter"', '" "'), "packages.0.id", "pattern", id="a blank package id"),
        pytest.param(GOOD.replace("[tiers.free]", '[tiers." "]'), "tiers. ", "pattern", id="a blank tier"),
        pytest.param(
            GOOD + 'rounding = "bankers"\n',
            "pricing.upload.rounding",
            "'half_even'",
            id="an unknown rounding",
        ),
        pytest.param(
            GOOD.replace("1_024", "0"), "pricing.upload.per", "greater than 0", id="a price per nothing"
        ),
        pytest.param("tiers = 5\n" + PACKAGE, "tiers", "valid dictionary", id="tiers that are a number"),
        pytest.param("packages = 5\n" + TIER, "packages", "tuple", id="packages that are a number"),
        pytest.param(
            GOOD + 'quota = "free_uploads"\n',
            "pricing.upload.quota",
            "no tier has free units of 'free_uploads'",
            id="a quota that nobody grants",
        ),
        pytest.param(
            TIER + "free_units = { pages = 5 }\n" + PACKAGE + RULE,
            "tiers.free.free_units",
            "no meter counts against 'pages'",
            id="free units that nothing counts",
        ),
        pytest.param(
            GOOD + "[priorities]\nlottery = 1\n", "priorities.lottery", "not permitted", id="a new source"
        ),
        pytest.param(
            GOOD + '[payments]\nwhen_spent = "forgive"\n',
            "payments.when_spent",
            "'debt' or 'write_off'",
            id="an unknown policy",
        ),
        pytest.param(
            GOOD + "[notices]\nlow = { at = 100, again_from = 100 }\n",
            "notices.low",
            "again_from must be more than at (100)",
            id="a mark without a way back",
        ),
        pytest.param(
            GOOD.replace("50_000", "50_000\nvalid_days = 0"),
            "packages.0.valid_days",
            "greater than 0",
            id="a package for no day",
        ),
    ],
)
def test_bad_catalog_raises_with_the_file_and_the_key(
    tmp_path: Path, text: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(f"catalog {tmp_path / 'my-catalog.toml'}: {key}")
    assert words in message


def test_bad_catalog_raises_with_every_error(tmp_path: Path) -> None:
    text = GOOD.replace("499", "-1").replace("10_000", "1.5")
    with pytest.raises(
        ConfigurationError, match=r"tiers\.free\.monthly_tokens: .*; packages\.0\.price_minor: "
    ):
        loaded(tmp_path, text)


def test_missing_catalog_raises_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    with pytest.raises(ConfigurationError, match=re.escape(f"catalog {path}: cannot be read: No such file")):
        load_catalog(path)


def test_folder_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"# caf\xe9\n", bytes(4)], ids=["UTF-16", "Latin-1", "NULs"]
)
def test_catalog_in_another_encoding_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalog.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(f"catalog {path}: is not TOML")):
        load_catalog(path)


def test_auto_open_names_a_tier_of_the_catalog(tmp_path: Path) -> None:
    assert load_catalog().auto_open is None
    packaged = DEFAULT_CATALOG.read_text(encoding="utf-8")
    path = tmp_path / "catalog.toml"
    path.write_text(f'auto_open = "basic"\n{packaged}', encoding="utf-8")
    assert load_catalog(path).auto_open == "basic"
    path.write_text(f'auto_open = "gold"\n{packaged}', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="there is no tier 'gold'; name one, or leave it out"):
        load_catalog(path)


def test_changed_copy_of_a_catalog_has_its_own_digest_and_ids() -> None:
    catalog = load_catalog()
    before = catalog.digest, catalog.ids
    copied = catalog.model_copy(update={"packages": ()})
    assert copied.digest != before[0]
    assert copied.package("standard", None) is None
    assert "standard" not in copied.ids
    assert (catalog.digest, catalog.ids) == before
    assert catalog.model_copy().digest == before[0]


def test_digest_is_that_of_the_content_and_not_of_the_file(tmp_path: Path) -> None:
    other = tmp_path / "catalog.toml"
    other.write_text("# a comment\n" + DEFAULT_CATALOG.read_text())
    assert load_catalog(other).digest == load_catalog().digest
    assert hashlib.sha256(load_catalog().content.encode()).hexdigest() == load_catalog().digest
