"""Money as people read it, by the decimals of its currency."""

import pytest

from worker.runtime.shown_money import decimal_text, decimals_of, shown_money


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (499, "USD", "4.99 USD"),
        (5, "EUR", "0.05 EUR"),
        (0, "USD", "0.00 USD"),
        (500, "JPY", "500 JPY"),
        (1_234, "KWD", "1.234 KWD"),
        (12, "CLF", "0.0012 CLF"),
        (-5, "USD", "-0.05 USD"),
        (-12_345_678, "EUR", "-123,456.78 EUR"),
        (2**63 - 1, "USD", "92,233,720,368,547,758.07 USD"),
        (700, "XYZ", "7.00 XYZ"),
        (700, None, "700 of an unknown currency"),
    ],
)
def test_minor_units_are_shown_in_the_decimals_of_the_currency(
    minor: int, currency: str | None, text: str
) -> None:
    assert shown_money(minor, currency) == text


def test_decimal_number_is_exact_and_without_groups() -> None:
    assert decimal_text(2**63 - 1, "KWD") == "9223372036854775.807"


def test_currencies_without_two_decimals_are_those_of_iso_4217() -> None:
    assert [decimals_of(code) for code in ("VND", "UGX", "ISK", "IQD", "TND", "UYW", "MGA")] == [
        *(0, 0, 0, 3, 3, 4, 2)
    ]
