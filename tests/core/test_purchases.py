"""Purchases: the price in the catalog against what was paid, and what is credited for it."""

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from schemas import Command, PaymentSucceeded
from tests.support.commands import opening, went_back
from tests.support.fake_ledger import FakeLedger, reply_to
from tests.support.strategies import NOW
from worker.catalog import Catalog

DAY = timedelta(days=1)
_CATALOG: dict[str, Any] = {
    "tiers": {"free": {"monthly_tokens": 0, "free_upload_bytes": 0}},
    "packages": [
        {
            "id": "standard",
            "tokens": 250,
            "bonus_tokens": 25,
            "prices": {"USD": 1_999, "EUR": 1_899},
            "changes": [
                {"valid_from": NOW - 10 * DAY, "prices": {"USD": 2_099, "EUR": 1_899}},
                {"valid_from": NOW - 20 * DAY, "prices": {"USD": 1_499, "CHF": 1_500}},
            ],
        },
        {"id": "yen", "tokens": 50_000, "price_minor": 500, "currency": "JPY"},
        {
            "id": "open",
            "rates": {"USD": {"tokens": 7, "per_minor": 3}, "JPY": {"tokens": 200, "per_minor": 1}},
        },
    ],
}


def catalog(**payments: str) -> Catalog:
    """Return the catalog under a policy."""
    return Catalog.model_validate({**_CATALOG, "payments": payments})


def paid(amount_minor: int, currency: str = "USD", package: str = "standard", **more: Any) -> Command:
    named = more if "package_index" in more else {"package_id": package, **more}
    about = {"reference_id": "p", "user_id": "u", "amount_minor": amount_minor, "currency": currency}
    return PaymentSucceeded(**{**about, **named})


def ledger(**payments: str) -> FakeLedger:
    opened = FakeLedger(catalog(**payments))
    opened.apply([opening()])
    return opened


def shown(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


def credited(*commands: Command, **payments: str) -> list[int | None]:
    """Return the tokens that each command credits; None where it is rejected as a mismatch."""
    replies = ledger(**payments).apply(commands)
    assert {reply["code"] for reply in replies} <= {
        "tokens_purchased",
        "purchase_flagged",
        "amount_mismatch",
        "payment_refunded",
    }
    return [reply.get("amount") for reply in replies]


# -- the price --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "tokens"),
    [
        (paid(2_099), 275),
        (paid(1_899, "EUR"), 275),
        (paid(1_899), None),
        (paid(2_099, "EUR"), None),
        (paid(1_500, "CHF"), None),  # no longer taken
        (paid(2_098), None),
        (paid(2_100), None),
        (paid(1_999, occurred_at=NOW - 21 * DAY), 275),
        (paid(2_099, occurred_at=NOW - 21 * DAY), None),
        (paid(1_499, occurred_at=NOW - 20 * DAY), 275),
        (paid(1_500, "CHF", occurred_at=NOW - 11 * DAY), 275),
        (paid(2_099, occurred_at=NOW - 10 * DAY), 275),
        (paid(1_499, occurred_at=NOW - 10 * DAY), None),
    ],
)
def test_price_of_the_currency_counts_that_was_valid_when_it_was_paid(
    command: Command, tokens: int | None
) -> None:
    assert credited(command) == [tokens]


def test_payment_without_a_time_is_judged_by_the_price_of_now() -> None:
    later = FakeLedger(catalog())
    later.apply([opening()], NOW - 15 * DAY)
    assert reply_to(later, paid(1_499), NOW - 15 * DAY)["code"] == "tokens_purchased"


def test_mismatch_names_the_price_of_the_time() -> None:
    reply = reply_to(ledger(), paid(1_999))
    assert shown(reply, "status", "code", "expected", "received") == (
        "rejected",
        "amount_mismatch",
        "2099 USD",
        "1999 USD",
    )


def test_mismatch_names_every_currency_that_is_taken() -> None:
    reply = reply_to(ledger(), paid(1_999, "GBP"))
    assert shown(reply, "expected", "received") == ("1899 EUR or 2099 USD", "1999 GBP")


def test_currency_without_decimals_is_in_its_own_units() -> None:
    assert credited(paid(500, "JPY", "yen")) == [50_000]
    reply = reply_to(ledger(), paid(50_000, "JPY", "yen"))
    assert shown(reply, "code", "expected", "received") == ("amount_mismatch", "500 JPY", "50000 JPY")


# -- quantity, open amounts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "tokens"),
    [
        (paid(4_198, quantity=2), 550),
        (paid(2_099, quantity=1), 275),
        (paid(2_099, quantity=2), None),
        (paid(4_198), None),
        (paid(5_697, "EUR", quantity=3), 825),
    ],
)
def test_quantity_multiplies_price_and_tokens(command: Command, tokens: int | None) -> None:
    assert credited(command) == [tokens]


@pytest.mark.parametrize(
    ("command", "tokens"),
    [
        (paid(300, package="open"), 700),
        (paid(100, package="open"), 233),
        (paid(1, package="open"), 2),
        (paid(25, "JPY", "open"), 5_000),
        (paid(300, "EUR", "open"), None),
        (paid(360, package="open", tax_minor=60), 700),
    ],
)
def test_open_amount_credits_by_the_rate_rounded_down(command: Command, tokens: int | None) -> None:
    assert credited(command) == [tokens]


@pytest.mark.parametrize("policy", [{}, {"on_mismatch": "credit_and_flag"}, {"price_check": "off"}])
def test_open_amount_of_nothing_is_a_mismatch_under_any_policy(policy: dict[str, str]) -> None:
    reply = reply_to(ledger(**policy), paid(0, package="open"))
    assert shown(reply, "code", "expected") == ("amount_mismatch", "an amount in JPY or an amount in USD")


# -- tax, discount, shipping ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "tokens"),
    [
        (paid(2_498, tax_minor=399), 275),  # tax on top
        (paid(2_099, tax_minor=335), None),  # the price is without tax
        (paid(2_099, tax_minor=335, list_minor=2_099), 275),  # tax within
        (paid(1_050, discount_minor=1_049), 275),
        (paid(1_050), None),
        (paid(0, discount_minor=2_099), 275),
        (paid(0), None),
        (paid(2_699, other_minor=600), 275),
        (paid(2_998, tax_minor=399, discount_minor=100, other_minor=600), 275),
        (paid(1_000, list_minor=2_099), 275),
        (paid(2_099, list_minor=1_999), None),
    ],
)
def test_list_price_is_compared_and_not_what_was_paid(command: Command, tokens: int | None) -> None:
    assert credited(command) == [tokens]


def test_half_of_a_gross_amount_takes_half_of_the_tokens_back() -> None:
    halved = credited(
        paid(2_498, tax_minor=399), went_back(1_249, "USD", reference_id="r1"), went_back(1_249, "USD")
    )
    assert halved == [275, 137, 138]


def test_payment_of_nothing_has_nothing_that_could_go_back() -> None:
    assert credited(paid(0, discount_minor=2_099), went_back(100, "USD")) == [275, 0]


# -- policies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "amount", "tokens"),
    [
        ("exact", 2_100, None),
        ("at_least", 2_100, 275),
        ("at_least", 2_099, 275),
        ("at_least", 2_098, None),
        ("off", 1, 275),
        ("off", 9_999, 275),
    ],
)
def test_price_is_checked_as_the_catalog_says(check: str, amount: int, tokens: int | None) -> None:
    assert credited(paid(amount), price_check=check) == [tokens]


@pytest.mark.parametrize("check", ["exact", "at_least"])
def test_currency_that_has_no_price_is_a_mismatch(check: str) -> None:
    assert credited(paid(9_999, "GBP"), price_check=check) == [None]


def test_any_currency_is_taken_without_a_check() -> None:
    assert credited(paid(1, "GBP"), price_check="off") == [275]


def test_mismatch_is_credited_and_flagged_where_the_catalog_says_so() -> None:
    flagging = ledger(on_mismatch="credit_and_flag")
    reply = reply_to(flagging, paid(1_000))
    assert shown(reply, "status", "code", "amount", "expected", "received") == (
        "applied",
        "purchase_flagged",
        275,
        "2099 USD",
        "1000 USD",
    )
    assert reply["message"] == "Credited 275 tokens for 10.00 USD, whose price is 20.99 USD. Balance: 275"
    assert shown(reply_to(flagging, went_back(500, "USD")), "amount", "balanceAfter") == (137, 138)


def test_price_that_fits_is_not_flagged() -> None:
    reply = reply_to(ledger(on_mismatch="credit_and_flag"), paid(2_099))
    assert shown(reply, "code", "expected") == ("tokens_purchased", None)


# -- one package, two names -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1], ids=["by its id", "by its position"])
def test_package_by_id_and_by_position_is_one_content(first: int) -> None:
    names = [paid(2_099), paid(2_099, package_index=0)]
    sold = ledger()
    reply = reply_to(sold, names[first])
    assert shown(reply, "code", "packageId") == ("tokens_purchased", "standard")
    assert reply_to(sold, names[1 - first]) == {**reply, "duplicate": True}


def test_position_of_another_package_is_a_conflict() -> None:
    for one, other in permutations([paid(2_099), paid(2_099, package_index=1)]):
        sold = ledger()
        sold.apply([one])
        assert shown(reply_to(sold, other), "code", "field") == ("reference_conflict", "packageId")


def test_rejected_payment_is_one_by_either_name() -> None:
    sold = ledger()
    reply = reply_to(sold, paid(1, package_index=0))
    assert reply_to(sold, paid(1)) == {**reply, "duplicate": True}
    assert reply_to(sold, paid(2_099, attempt=2))["code"] == "tokens_purchased"


def test_payment_before_its_account_is_one_by_either_name() -> None:
    sold = FakeLedger(catalog())
    sold.apply([paid(2_099, package_index=0), opening()])
    for copy in (paid(2_099, package_index=0), paid(2_099)):
        assert shown(reply_to(sold, copy), "code", "duplicate") == ("tokens_purchased", True)


def test_position_means_the_package_that_it_named_first() -> None:
    sold = ledger()
    reply = reply_to(sold, paid(2_099, package_index=0))
    packages = list(_CATALOG["packages"])
    sold.catalog = Catalog.model_validate({**_CATALOG, "packages": packages[::-1]})
    assert reply_to(sold, paid(2_099)) == {**reply, "duplicate": True}
    assert reply_to(sold, paid(2_099, package_index=0)) == {**reply, "duplicate": True}
