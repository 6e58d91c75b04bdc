"""Queries on the wire: what is read, and what is refused with a way out."""

import json
from typing import Any

import pytest

from schemas import QUERY_TYPES, Limits, Malformed, Query, decode_query

LIMITS = Limits()


def decoded(fields: dict[str, Any]) -> Query | Malformed:
    return decode_query(json.dumps(fields).encode(), limits=LIMITS)


GOOD: list[dict[str, Any]] = [
    {"type": "query.balance", "userId": "ada"},
    {"type": "query.balance", "userId": "ada", "at": "2026-11-22T10:15:00+01:00"},
    {"type": "query.balance", "userId": "ada", "minSequence": 0},
    {"type": "query.afford", "userId": "ada", "tokens": 0},
    {"type": "query.afford", "userId": "ada", "meter": "ocr", "quantity": 5},
    {"type": "query.history", "userId": "ada", "limit": 1_000, "offset": 2**63 - 1},
    {"type": "query.history", "userId": "ada", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"},
    {"type": "query.history", "userId": "ada", "status": "all", "transactionType": "usage.deduct"},
    {"type": "query.usage", "userId": "ada", "days": 366, "timezone": "Europe/Berlin"},
    {"type": "query.usage", "userId": "ada", "from": "2024-01-01", "to": "2024-12-31"},
    {"type": "query.usage", "userId": "ada", "groupBy": "metadata.model"},
    {"type": "query.stats"},
    {"type": "query.operation", "referenceId": "use-1"},
    {"type": "query.catalog"},
]


@pytest.mark.parametrize("fields", GOOD, ids=json.dumps)
def test_query_is_read_and_written_back(fields: dict[str, Any]) -> None:
    query = decoded(fields)
    assert not isinstance(query, Malformed), query
    again = decode_query(query.to_json(), limits=LIMITS)
    assert again == query


def test_every_type_of_query_is_tried() -> None:
    assert {fields["type"] for fields in GOOD} == set(QUERY_TYPES)


BAD: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "type", "is missing; known are query.afford"),
    ({"type": "query.balances"}, "type", "known are query.afford"),
    ({"type": "usage.deduct"}, "type", "known are query.afford"),
    ({"type": 5}, "type", "is not known"),
    ({"type": "query.balance"}, "userId", "missing"),
    ({"type": "query.balance", "userID": "ada"}, "userID", "did you mean 'userId'?"),
    ({"type": "query.balance", "userId": " ada"}, "userId", "white space"),
    ({"type": "query.balance", "userId": "ada", "at": "yesterday"}, "at", "RFC 3339"),
    ({"type": "query.balance", "userId": "ada", "at": "0001-01-01T00:00:00Z"}, "at", "years 1970 to 2199"),
    ({"type": "query.balance", "userId": "ada", "at": "9999-12-31T23:59:59Z"}, "at", "years 1970 to 2199"),
    ({"type": "query.balance", "userId": "ada", "minSequence": -1}, "minSequence", "greater"),
    (
        {"type": "query.balance", "userId": "ada", "at": "2026-11-22T10:15:00Z", "minSequence": 1},
        None,
        "not both",
    ),
    ({"type": "query.afford", "userId": "ada"}, None, "give tokens, or meter and quantity"),
    (
        {"type": "query.afford", "userId": "ada", "tokens": 1, "meter": "ocr", "quantity": 1},
        None,
        "give tokens",
    ),
    ({"type": "query.afford", "userId": "ada", "meter": "ocr"}, None, "give tokens"),
    ({"type": "query.afford", "userId": "ada", "tokens": -1}, "tokens", "0 or more"),
    ({"type": "query.afford", "userId": "ada", "tokens": 1.0}, "tokens", "whole number"),
    ({"type": "query.history", "userId": "ada", "limit": 10**9}, "limit", "1000"),
    ({"type": "query.history", "userId": "ada", "limit": 0}, "limit", "1"),
    ({"type": "query.history", "userId": "ada", "offset": -1}, "offset", "0"),
    ({"type": "query.history", "userId": "ada", "cursor": "x", "offset": 1}, None, "not both"),
    ({"type": "query.history", "userId": "ada", "feature": "x", "offset": 1}, None, "give a cursor"),
    (
        {
            "type": "query.history",
            "userId": "ada",
            "from": "2026-12-01T00:00:00Z",
            "to": "2026-12-01T00:00:00Z",
        },
        None,
        "from must be before to",
    ),
    ({"type": "query.history", "userId": "ada", "cursor": "x" * 201}, "cursor", "200"),
    ({"type": "query.usage", "userId": "ada", "days": 10**6}, "days", "366"),
    ({"type": "query.usage", "userId": "ada", "from": "1970-01-01", "to": "2199-12-31"}, None, "1 to 366"),
    ({"type": "query.usage", "userId": "ada", "from": "0001-01-01", "to": "0001-01-02"}, "from", "1970"),
    ({"type": "query.usage", "userId": "ada", "from": "2026-02-30", "to": "2026-03-01"}, "from", "day"),
    ({"type": "query.usage", "userId": "ada", "from": "2026-11-01"}, None, "go together"),
    (
        {"type": "query.usage", "userId": "ada", "days": 3, "from": "2026-11-01", "to": "2026-11-02"},
        None,
        "days, or",
    ),
    ({"type": "query.usage", "userId": "ada", "groupBy": "colour"}, "groupBy", "day, feature, type"),
    ({"type": "query.operation", "referenceId": "x" * 201}, "referenceId", "200"),
    ({"type": "query.stats", "userId": "ada"}, "userId", "not known"),
]


@pytest.mark.parametrize(("fields", "field", "way_out"), BAD, ids=json.dumps)
def test_bad_query_names_the_field_and_the_way_out(
    fields: dict[str, Any], field: str | None, way_out: str
) -> None:
    refused = decoded(fields)
    assert isinstance(refused, Malformed)
    assert refused.field == field
    assert way_out in refused.message


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{", b"\xef\xbb\xbf{}", b"x" * 300_000])
def test_unreadable_query_is_malformed(body: bytes) -> None:
    assert isinstance(decode_query(body, limits=LIMITS), Malformed)
