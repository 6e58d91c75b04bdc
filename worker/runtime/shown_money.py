"""Money as people read it: minor units in the decimals that ISO 4217 gives their currency."""

from collections.abc import Mapping

# All others have two. Babel has the decimals of CLDR, which follow what is paid in cash (IQD: none) and not
# what gateways count (IQD: three).
_DECIMALS: Mapping[str, int] = {
    **dict.fromkeys(
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(),  # noqa: SIM905 - a list
        0,
    ),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),  # noqa: SIM905 - a list of codes
    **dict.fromkeys(("CLF", "UYW"), 4),
}


def decimals_of(currency: str) -> int:
    """Return the number of decimals of a currency."""
    return _DECIMALS.get(currency, 2)


def decimal_text(minor: int, currency: str, *, grouped: bool = False) -> str:
    """Return minor units as a decimal number, exactly: 499 of USD is 4.99, of KWD 0.499, of JPY 499."""
    decimals = decimals_of(currency)
    whole, part = divmod(abs(minor), 10**decimals)
    sign = "-" if minor < 0 else ""
    digits = f"{whole:,}" if grouped else str(whole)
    return f"{sign}{digits}.{part:0{decimals}}" if decimals else f"{sign}{digits}"


def decimal_or_none(minor: int | None, currency: str | None, *, grouped: bool = False) -> str | None:
    """Return an amount as a decimal number; of an unknown currency nobody knows the decimals."""
    if minor is None or currency is None:
        return None
    return decimal_text(minor, currency, grouped=grouped)


def shown_money(minor: int, currency: str | None, *, grouped: bool = True) -> str:
    """Return money with its currency: 1,234.50 USD. Of an unknown currency nobody knows the decimals."""
    if currency is None:
        return f"{minor} of an unknown currency"
    return f"{decimal_text(minor, currency, grouped=grouped)} {currency}"
