"""Fingerprint of a failure and the tokens affected, read off a message without judging it."""

import hashlib
import json
import re
from typing import Any

from worker.catalog import Catalog

#: Frames nearest to the fault that count; the ones above them are the same for every batch.
_FRAMES = 5
_FIELD_MAX = 200
#: Most tokens that a message may ask for unless an operator allows more: above, the amount is unknown.
_TOKENS_MAX = 10**15

_FRAME = re.compile(r'^  File "(?P<path>[^"\n]*)", line \d+, in (?P<name>\S+)', re.MULTILINE)
# From the last folder of such a name on: the folders above the installation may have such names as well.
_OURS = re.compile(r"(?:^|.*[/\\])((?:worker|schemas)[/\\](?!.*site-packages[/\\]).*)$")
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)
_NUMBER = re.compile(r"\d+")


def fingerprint_of(reason: str, type_: str | None, field: str | None, traceback: str | None) -> str:
    """Return 32 hexadecimal digits, the same for failures of the same kind.

    Of a fault count its reason, the type, the exception and our own frames, whatever their lines. Of a
    refusal count its reason, the type, and the field, whichever item of a batch it was. No user, reference or
    amount is part of it.
    """
    place = _place_of_fault(traceback) if traceback else [field_path(field)]
    digest = hashlib.sha256("\0".join([reason, type_ or "", *place]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _place_of_fault(traceback: str) -> list[str]:
    frames = list(_FRAME.finditer(traceback))
    ours = [
        f"{path[1]}:{frame['name']}".replace("\\", "/")
        for frame in frames
        if (path := _OURS.search(frame["path"])) is not None
    ]
    raised = _EXCEPTION.search(traceback, frames[-1].end() if frames else 0)
    return [raised[1] if raised else "", *ours[-_FRAMES:]]


def field_path(field: str | None) -> str:
    """Return the field without the indexes of items, and without numbers in names that producers made up."""
    return _NUMBER.sub("#", (field or "")[:_FIELD_MAX])


def tokens_at_stake(body: bytes, catalog: Catalog | None = None) -> int | None:
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
