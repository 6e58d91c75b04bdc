"""The catalog: the packaged default, and the errors about a bad file."""

import re
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
RULE = """
[pricing.upload]
unit = "byte"
per = 1_024
tokens = 10
"""
GOOD = TIER + PACKAGE + RULE


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
    packages = load_catalog().packages
    assert list(packages) == sorted(packages, key=lambda package: package.price_minor)
    for smaller, larger in pairwise(packages):
        credited = smaller.tokens + smaller.bonus_tokens, larger.tokens + larger.bonus_tokens
        assert credited[0] * larger.price_minor < credited[1] * smaller.price_minor


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
            GOOD.replace("price_minor = 499\n", ""), "packages.0.price_minor", "Field required", id="no price"
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
            GOOD.replace("50_000", "0"), "packages.0.tokens", "greater than 0", id="nothing for sale"
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
