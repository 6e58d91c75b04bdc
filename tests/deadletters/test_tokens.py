"""Tokens that a message asks to move, read off any body."""

import json

import pytest

from tests.deadletters.parts import deduct
from worker.catalog import load_catalog
from worker.deadletters.tokens import tokens_affected

AFFECTED = [
    (deduct("r", tokens=5), 5),
    ({"type": "credit.adjust", "tokens": -7}, 7),
    ({"type": "usage.free_upload", "bytes": 5}, 0),
    ({"type": "usage.record", "meter": "ocr", "quantity": 3}, None),
    ({"type": "usage.deduct", "tokenz": 5}, None),
    ({"type": "usage.deduce", "tokens": 5}, 5),
    ({"type": "usage.deduct", "tokens": "5"}, None),
    ({"type": "usage.deduct", "tokens": True}, None),
    ({"type": "usage.deduct", "tokens": 10**15}, 10**15),
    ({"type": "usage.deduct", "tokens": 10**15 + 1}, None),
    ({"type": "usage.batch", "items": [deduct("a", 5), deduct("b", 6)]}, 11),
    ({"type": "usage.batch", "items": [deduct("a", 5), {"type": "usage.record"}]}, None),
    ({"type": "usage.batch", "items": [deduct("a", 5), 7]}, None),
    ({"type": "payment.succeeded", "packageId": "standard"}, "package"),
    ({"type": "payment.succeeded", "packageId": "nothing"}, None),
    ({"type": "payment.succeeded", "packageIndex": -1}, None),
    ([1], None),
]


@pytest.mark.parametrize(("message", "tokens"), AFFECTED, ids=lambda value: json.dumps(value)[:40])
def test_tokens_are_read_from_the_body_where_possible(message: object, tokens: int | str | None) -> None:
    catalog = load_catalog()
    package = catalog.package("standard", None)
    assert package is not None
    expected = package.tokens + package.bonus_tokens if tokens == "package" else tokens
    assert tokens_affected(json.dumps(message).encode(), catalog) == expected


@pytest.mark.parametrize("body", [b"", b"oops", b"\xff", b"[" * 100_000, b"\0" * 262_144, b"9" * 5_000])
def test_strange_body_has_unknown_tokens(body: bytes) -> None:
    assert tokens_affected(body) is None
