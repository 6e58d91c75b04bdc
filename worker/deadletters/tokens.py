"""Tokens that a message asks to move, read off its body without judging it."""

import json
from typing import Any

from worker.catalog import Catalog

#: Most tokens that a message may ask for unless an operator allows more: above, the amount is unknown.
_TOKENS_MAX = 10**15


def tokens_affected(body: bytes, catalog: Catalog | None = None) -> int | None:
    """Return the tokens that the message asks to move, without a sign; None where unknown.

    A malformed message may count too: its amount may be legible where other fields are not. A package's
    tokens need the catalog.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    items = message.get("items")
    if message.get("type") == "usage.batch" and isinstance(items, list):
        amounts = [_tokens(item, catalog) for item in items]
        known = [amount for amount in amounts if amount is not None]
        return _bounded(sum(known)) if len(known) == len(amounts) else None
    return _tokens(message, catalog)


def _tokens(message: Any, catalog: Catalog | None) -> int | None:
    if not isinstance(message, dict):
        return None
    match message.get("type"):
        case "usage.free_upload":
            return 0
        case "payment.succeeded":
            return None if catalog is None else _bought(message, catalog)
        case _:
            tokens = message.get("tokens")
            return _bounded(abs(tokens)) if type(tokens) is int else None


def _bought(message: dict[str, Any], catalog: Catalog) -> int | None:
    named, index = message.get("packageId"), message.get("packageIndex")
    package = catalog.package(
        named if isinstance(named, str) else None, index if type(index) is int and index >= 0 else None
    )
    return None if package is None else package.tokens + package.bonus_tokens


def _bounded(tokens: int) -> int | None:
    return tokens if tokens <= _TOKENS_MAX else None
