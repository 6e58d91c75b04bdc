"""Refusals at the border: the reasons and the ways out; decoding itself never fails."""

import codecs
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas import COMMAND_TYPES, MESSAGE_TYPES, NO_USER, Command, DeductUsage, Limits, Malformed, decode
from schemas.fields import Metadata, metadata_fault
from tests.support import message_bodies
from tests.support.message_bodies import (
    GONE,
    MINIMAL,
    assert_fit_for_logs_and_headers,
    assert_refused,
    outcome_of,
    refusal_of,
)
from tests.support.strategies import LIMITS, NOW, commands, examples

DEDUCT = MINIMAL["usage.deduct"]
PAYMENT = {**MINIMAL["payment.succeeded"], "packageIndex": GONE, "packageId": "starter"}


def body(base: dict[str, Any] = DEDUCT, /, **changes: Any) -> bytes:
    """``base`` with fields changed, or taken away by GONE."""
    return message_bodies.body(base, **changes)


def deduct_of(text: str, field: str = "tokens") -> bytes:
    """A deduction with ``text`` as it stands for the value of ``field``."""
    return body(**{field: "@"}).replace(b'"@"', text.encode())


Row = tuple[str, bytes, str, str | None, str]

WHOLE = "must be a whole number, without quotes, fraction or exponent"
CHARACTERS = "holds characters that are not taken"
SURROGATE = "holds half of a surrogate pair; send valid Unicode"
RFC3339 = "must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:00Z"
MAXIMUM = f"at most {LIMITS.max_quantity} is taken"
DEEP = "nested too deeply; a command is one flat object"

NO_TEXT: list[Row] = [
    ("an empty body", b"", "not_json", None, "not JSON: Expecting value"),
    ("white space only", b" \r\n\t ", "not_json", None, "not JSON: Expecting value"),
    ("a NUL byte", b"\x00", "not_json", None, "not JSON"),
    ("Latin-1", '{"type": "café"}'.encode("latin-1"), "not_utf8", None, "not UTF-8: bad byte at 13"),
    ("a lone continuation byte", b"\x80", "not_utf8", None, "bad byte at 0"),
    ("an overlong NUL", b'{"a": "\xc0\x80"}', "not_utf8", None, "bad byte at 7"),
    ("a surrogate in UTF-8", b'{"a": "\xed\xa0\x80"}', "not_utf8", None, "bad byte at 7"),
    ("UTF-8 cut inside a character", body(userId="é")[:-2] + b"\xc3", "not_utf8", None, "bad byte"),
    ("a UTF-8 byte order mark", codecs.BOM_UTF8 + body(), "byte_order_mark", None, "send plain UTF-8"),
    (
        "a UTF-16-LE byte order mark",
        body().decode().encode("utf-16"),
        "byte_order_mark",
        None,
        "send plain UTF-8",
    ),
    (
        "a UTF-16-BE byte order mark",
        codecs.BOM_UTF16_BE + body().decode().encode("utf-16-be"),
        "byte_order_mark",
        None,
        "send plain UTF-8",
    ),
    ("UTF-16 without a mark", body().decode().encode("utf-16-le"), "not_json", None, "not JSON"),
    ("gzip", b"\x1f\x8b\x08\x00" + bytes(20), "not_utf8", None, "bad byte at 1"),
]

NO_JSON: list[Row] = [
    ("plain text", b"deduct five tokens", "not_json", None, "Expecting value"),
    ("a truncated object", body()[:-1], "not_json", None, "Expecting ',' delimiter"),
    ("a truncated string", b'{"type": "usage', "not_json", None, "Unterminated string"),
    ("two objects", body() + body(), "not_json", None, "Extra data"),
    ("a trailing comma", b'{"tokens": 1,}', "not_json", None, "not JSON"),
    ("single quotes", b"{'tokens': 1}", "not_json", None, "property name"),
    ("a comment", body() + b" // thanks", "not_json", None, "Extra data"),
    ("a leading zero", deduct_of("05"), "not_json", None, "not JSON"),
    ("a plus sign", deduct_of("+5"), "not_json", None, "not JSON"),
    ("hexadecimal", deduct_of("0x5"), "not_json", None, "not JSON"),
    ("a raw NUL in a string", b'{"type": "a\x00"}', "not_json", None, "Invalid control character"),
    ("a raw line feed in a string", b'{"type": "a\n"}', "not_json", None, "Invalid control character"),
    ("NaN", deduct_of("NaN"), "not_json", None, "NaN is no JSON number; amounts are whole numbers"),
    ("Infinity", deduct_of("Infinity"), "not_json", None, "Infinity is no JSON number"),
    ("-Infinity", deduct_of("-Infinity"), "not_json", None, "-Infinity is no JSON number"),
    ("NaN in metadata", deduct_of('{"a": NaN}', "metadata"), "not_json", None, "NaN is no JSON number"),
]

NO_OBJECT: list[Row] = [
    ("an array", b"[" + body() + b"]", "not_an_object", None, "a JSON array; a command is one object"),
    ("a string", b'"usage.deduct"', "not_an_object", None, "a JSON string"),
    ("a number", b"5", "not_an_object", None, "a JSON number"),
    ("a fraction", b"5.5", "not_an_object", None, "a JSON number"),
    ("a boolean", b"true", "not_an_object", None, "a JSON boolean"),
    ("null", b"null", "not_an_object", None, "a JSON null"),
]

NESTED: list[Row] = [
    ("a bomb of arrays", b"[" * 100_000, "too_deep", None, DEEP),
    ("a bomb of objects", b'{"a":' * 50_000, "too_deep", None, DEEP),
    (
        "a bomb of arrays that are closed",
        b"[" * 100_000 + b"]" * 100_000,
        "too_deep",
        None,
        DEEP,
    ),
    ("a bomb in metadata", deduct_of('{"a": ' + "[" * 100_000, "metadata"), "too_deep", None, DEEP),
    (
        "a closed bomb in metadata",
        deduct_of('{"a": ' * 30_000 + "1" + "}" * 30_000, "metadata"),
        "too_deep",
        None,
        DEEP,
    ),
    ("nested metadata", body(metadata={"a": {"b": 1}}), "invalid_field", "metadata.a", "must be a string, a"),
    ("an array in metadata", body(metadata={"a": [1]}), "invalid_field", "metadata.a", "true, false or null"),
    ("an object for the type", body(type={"a": [[[]]]}), "unknown_type", "type", "known are account.freeze"),
]

TWICE: list[Row] = [
    (
        "a field given twice",
        body()[:-1] + b', "tokens": 6}',
        "duplicate_field",
        "tokens",
        "given twice; send it once",
    ),
    (
        "a field given twice with the same value",
        body()[:-1] + b', "tokens": 5}',
        "duplicate_field",
        "tokens",
        "'tokens' is given twice",
    ),
    (
        "a field given twice, once with an escape",
        body()[:-1] + rb', "\u0074okens": 5}',
        "duplicate_field",
        "tokens",
        "'tokens' is given twice",
    ),
    (
        "a metadata key given twice",
        deduct_of('{"plan": 1, "plan": 2}', "metadata"),
        "duplicate_field",
        "metadata.plan",
        "'metadata.plan' is given twice",
    ),
    (
        "a metadata key given twice, once with an escape",
        deduct_of(r'{"a": 1, "\u0061": 2}', "metadata"),
        "duplicate_field",
        "metadata.a",
        "'metadata.a' is given twice",
    ),
    (
        "a strange name given twice",
        rb'{"\ud800\n": 1, "\ud800\n": 2}',
        "duplicate_field",
        r"\ud800\n",
        "given twice",
    ),
    (
        "the last of thirty thousand names given twice",
        ("{" + "".join(f'"{n:x}":1,' for n in range(23_000)) + f'"{22_999:x}":1}}').encode(),
        "duplicate_field",
        f"{22_999:x}",
        "given twice",
    ),
]

NUMBERS: list[Row] = [
    ("a fraction", deduct_of("1.5"), "invalid_field", "tokens", WHOLE),
    ("a fraction of zero", deduct_of("1.0"), "invalid_field", "tokens", WHOLE),
    ("an exponent", deduct_of("1e3"), "invalid_field", "tokens", WHOLE),
    ("an exponent past all doubles", deduct_of("1e400"), "invalid_field", "tokens", WHOLE),
    ("an exponent below all doubles", deduct_of("-1e400"), "invalid_field", "tokens", WHOLE),
    ("true", deduct_of("true"), "invalid_field", "tokens", WHOLE),
    ("false", deduct_of("false"), "invalid_field", "tokens", WHOLE),
    ("a quoted number", deduct_of('"5"'), "invalid_field", "tokens", WHOLE),
    ("an empty string", deduct_of('""'), "invalid_field", "tokens", WHOLE),
    ("null", deduct_of("null"), "invalid_field", "tokens", WHOLE),
    ("an array", deduct_of("[5]"), "invalid_field", "tokens", WHOLE),
    ("an object", deduct_of('{"n": 5}'), "invalid_field", "tokens", WHOLE),
    ("minus one", deduct_of("-1"), "invalid_field", "tokens", "must be 0 or more"),
    ("minus 2^63", deduct_of(str(-(2**63))), "invalid_field", "tokens", "must be 0 or more"),
    ("one more than the maximum", deduct_of(str(10**15 + 1)), "invalid_field", "tokens", MAXIMUM),
    ("2^63-1", deduct_of(str(2**63 - 1)), "invalid_field", "tokens", MAXIMUM),
    ("2^63", deduct_of(str(2**63)), "invalid_field", "tokens", "9223372036854775807"),
    ("2^64", deduct_of(str(2**64)), "invalid_field", "tokens", "9223372036854775807"),
    ("four thousand digits", deduct_of("9" * 4_000), "invalid_field", "tokens", "9223372036854775807"),
    ("five thousand digits", deduct_of("9" * 5_000), "invalid_field", None, "A number is too large"),
    ("a quarter of a million digits", deduct_of("9" * 250_000), "invalid_field", None, "too large"),
    (
        "less than no bytes",
        body(type="usage.free_upload", tokens=GONE, bytes=-1),
        "invalid_field",
        "bytes",
        "must be 0 or more",
    ),
    (
        "a price in fractions",
        body(PAYMENT, amountMinor=4.99),
        "invalid_field",
        "amountMinor",
        WHOLE,
    ),
    (
        "a price past the maximum",
        body(PAYMENT, amountMinor=10**16),
        "invalid_field",
        "amountMinor",
        MAXIMUM,
    ),
    ("attempt zero", body(attempt=0), "invalid_field", "attempt", "greater than or equal to 1"),
    ("attempt null", body(attempt=None), "invalid_field", "attempt", WHOLE),
    ("attempt true", body(attempt=True), "invalid_field", "attempt", WHOLE),
    ("attempt past a million", body(attempt=1_000_001), "invalid_field", "attempt", "1000000"),
    (
        "a negative package index",
        body(PAYMENT, packageId=GONE, packageIndex=-1),
        "invalid_field",
        "packageIndex",
        "greater than or equal to 0",
    ),
    ("a fraction in metadata", body(metadata={"a": 1.5}), "invalid_field", "metadata.a", "must be a string"),
    ("2^63 in metadata", body(metadata={"a": 2**63}), "invalid_field", "metadata.a", "a whole number of 64"),
]

FIELDS: list[Row] = [
    (
        "no type",
        body(type=GONE),
        "missing_field",
        "type",
        "'type' is missing; known are account.freeze, account.import, account.open, account.settle",
    ),
    ("an empty object", b"{}", "missing_field", "type", "known are account.freeze, account.import"),
    (
        "an unknown type",
        body(type="usage.refund"),
        "unknown_type",
        "type",
        "known are account.freeze, account",
    ),
    ("a type in capitals", body(type="Usage.Deduct"), "unknown_type", "type", "'Usage.Deduct' is not known"),
    ("an empty type", body(type=""), "unknown_type", "type", "'' is not known"),
    ("a null type", body(type=None), "unknown_type", "type", "'None' is not known"),
    ("a number for the type", body(type=5), "unknown_type", "type", "'5' is not known"),
    (
        "an array for the type",
        body(type=["usage.deduct"]),
        "unknown_type",
        "type",
        "known are account.freeze, account.import",
    ),
    ("a type with a lone surrogate", body(type="usage\ud800"), "unknown_type", "type", r"usage\\ud800"),
    ("an endless type", body(type="x" * 100_000), "unknown_type", "type", "x" * 80 + "'"),
    ("no reference", body(referenceId=GONE), "missing_field", "referenceId", "'referenceId' is missing"),
    ("no user", body(userId=GONE), "missing_field", "userId", "'userId' is missing"),
    ("no amount", body(tokens=GONE), "missing_field", "tokens", "'tokens' is missing"),
    ("no price", body(PAYMENT, amountMinor=GONE), "missing_field", "amountMinor", "'amountMinor' is missing"),
    ("no currency", body(PAYMENT, currency=GONE), "missing_field", "currency", "'currency' is missing"),
    ("no package", body(PAYMENT, packageId=GONE), "invalid_field", None, "by packageId or by packageIndex"),
    (
        "two names of the package",
        body(PAYMENT, packageIndex=0),
        "invalid_field",
        None,
        "by packageId or by packageIndex, one of the two",
    ),
    ("an unknown field", body(colour="red"), "unknown_field", "colour", "known are attempt, description"),
    ("a misspelt field", body(tokns=5), "unknown_field", "tokns", "did you mean 'tokens'?"),
    (
        "a misspelt field in the place of its own",
        body(tokens=GONE, token=5),
        "unknown_field",
        "token",
        "did you mean 'tokens'?",
    ),
    (
        "several unknown fields, one of them misspelt",
        body(tokens=GONE, tokns=5, colour="red", shape="round"),
        "unknown_field",
        "tokns",
        "The fields 'tokns', 'colour', 'shape' are not known; did you mean 'tokens' for 'tokns'? known are",
    ),
    (
        "more unknown fields than are named",
        body(**{f"f{n}": n for n in range(12)}),
        "unknown_field",
        "f0",
        "'f8', 'f9' and 2 more are not known",
    ),
    (
        "long unknown fields",
        body(**{str(n) + "😀" * 300: n for n in range(5)}),
        "unknown_field",
        "0" + r"\U0001f600" * 79,
        "are not known; known are attempt",
    ),
    ("a field in capitals", body(TOKENS=5), "unknown_field", "TOKENS", "known are attempt"),
    (
        "a snake_case field",
        body(referenceId=GONE, reference_id="r-1"),
        "unknown_field",
        "reference_id",
        "did you mean 'referenceId'?",
    ),
    (
        "a snake_case field beside its own",
        body(user_id="u-1"),
        "unknown_field",
        "user_id",
        "did you mean 'userId'?",
    ),
    (
        "a snake_case time",
        body(occurred_at="2026-11-22T10:15:00Z"),
        "unknown_field",
        "occurred_at",
        "did you mean 'occurredAt'?",
    ),
    (
        "a snake_case price",
        body(PAYMENT, amountMinor=GONE, amount_minor=499),
        "unknown_field",
        "amount_minor",
        "did you mean 'amountMinor'?",
    ),
    ("a field of another type", body(currency="USD"), "unknown_field", "currency", "known are attempt"),
    ("a field named int", body(int=5), "unknown_field", "int", "'int' is not known"),
    ("a metadata key named str", body(metadata={"str": 0.5}), "invalid_field", "metadata.str", "must be a"),
    ("a field without a name", body(**{"": 5}), "unknown_field", None, "known are attempt"),
    ("metadata that is an array", body(metadata=[1]), "invalid_field", "metadata", "must be an object"),
    ("metadata that is text", body(metadata="a=1"), "invalid_field", "metadata", "must be an object"),
    (
        "seventeen keys of metadata",
        body(metadata={str(n): n for n in range(17)}),
        "invalid_field",
        "metadata",
        "at most 16 keys, has 17",
    ),
    ("an empty metadata key", body(metadata={"": 1}), "invalid_field", "metadata.", "must not be empty"),
    (
        "a metadata key of 65 characters",
        body(metadata={"k" * 65: 1}),
        "invalid_field",
        "metadata." + "k" * 65,
        "at most 64 characters",
    ),
    ("a long metadata value", body(metadata={"a": "x" * 501}), "invalid_field", "metadata.a", "at most 500"),
    ("a long description", body(description="x" * 501), "invalid_field", "description", "at most 500 char"),
    ("a long feature", body(feature="x" * 65), "invalid_field", "feature", "at most 64 characters"),
    (
        "a currency in small letters",
        body(PAYMENT, currency="usd"),
        "invalid_field",
        "currency",
        "such as USD",
    ),
    ("a currency with a line feed", body(PAYMENT, currency="USD\n"), "invalid_field", "currency", "ISO 4217"),
    ("a currency of two letters", body(PAYMENT, currency="US"), "invalid_field", "currency", "ISO 4217"),
]

IDENTIFIERS: list[Row] = [
    ("an empty reference", body(referenceId=""), "invalid_field", "referenceId", "must not be empty"),
    ("a blank reference", body(referenceId="   "), "invalid_field", "referenceId", CHARACTERS),
    ("a null reference", body(referenceId=None), "invalid_field", "referenceId", "must be a string"),
    ("a number for the reference", body(referenceId=7), "invalid_field", "referenceId", "must be a string"),
    ("a boolean for the user", body(userId=True), "invalid_field", "userId", "must be a string"),
    ("an array for the user", body(userId=["u-1"]), "invalid_field", "userId", "must be a string"),
    ("201 characters", body(userId="x" * 201), "invalid_field", "userId", "at most 200 characters"),
    ("201 astral characters", body(userId="😀" * 201), "invalid_field", "userId", "at most 200 characters"),
    ("a hundred thousand characters", body(userId="x" * 10**5), "invalid_field", "userId", "at most 200"),
    ("a space before", body(userId=" u-1"), "invalid_field", "userId", "white space at either end"),
    ("a space behind", body(userId="u-1 "), "invalid_field", "userId", "white space at either end"),
    ("a line feed behind", body(userId="u-1\n"), "invalid_field", "userId", "white space at either end"),
    ("a no-break space before", body(userId="\u00a0u-1"), "invalid_field", "userId", "white space at"),
    ("an ideographic space behind", body(userId="u-1\u3000"), "invalid_field", "userId", "white space at"),
    ("a lone high surrogate", body(referenceId="r\ud800"), "invalid_field", "referenceId", SURROGATE),
    ("a lone low surrogate", body(userId="\udc00u"), "invalid_field", "userId", SURROGATE),
    ("two surrogates the wrong way", body(userId="\udc00\ud800"), "invalid_field", "userId", SURROGATE),
    (
        "a surrogate in a metadata value",
        body(metadata={"a": "\ud83d"}),
        "invalid_field",
        "metadata.a",
        SURROGATE,
    ),
    ("a surrogate in the description", body(description="\ud83d"), "invalid_field", "description", SURROGATE),
    ("a surrogate in a field's name", body(**{"\ud800": 1}), "invalid_field", None, "The name of a field"),
]

INVISIBLE = {
    "NUL": "\x00",
    "bell": "\x07",
    "tab": "\t",
    "line feed": "\n",
    "carriage return": "\r",
    "unit separator": "\x1f",
    "delete": "\x7f",
    "next line": "\x85",
    "soft hyphen": "\u00ad",
    "Arabic letter mark": "\u061c",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "right-to-left mark": "\u200f",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right-to-left override": "\u202e",
    "word joiner": "\u2060",
    "left-to-right isolate": "\u2066",
    "byte order mark inside": "\ufeff",
    "private use": "\ue000",
    "noncharacter": "\ufffe",
    "tag": "\U000e0041",
    "the last code point": "\U0010ffff",
}

TIMES: list[Row] = [
    (f"the time {text!r}", body(occurredAt=text), "invalid_field", "occurredAt", words)
    for text, words in [
        ("2026-11-22T10:15:00", RFC3339),
        ("2026-11-22", RFC3339),
        ("2026-11-22T10:15Z", RFC3339),
        ("20261122T101500Z", RFC3339),
        ("2026-W47-7T10:15:00Z", RFC3339),
        ("10:15:00Z", RFC3339),
        ("", RFC3339),
        ("now", RFC3339),
        ("1795342500", RFC3339),
        (1795342500, RFC3339),
        (1795342500.5, RFC3339),
        (True, RFC3339),
        (["2026-11-22T10:15:00Z"], RFC3339),
        ("2026-11-22T10:15:00+1", RFC3339),
        ("2026-11-22T10:15:00+01", RFC3339),
        ("2026-11-22T10:15:00+0100", RFC3339),
        ("2026-11-22T10:15:00+24:00", RFC3339),
        ("2026-11-22T10:15:00+99:99", RFC3339),
        ("2026-11-22T10:15:00 UTC", RFC3339),
        ("2026-11-22T10:15:00.Z", RFC3339),
        ("2026-11-22T10:15:00,5Z", RFC3339),
        ("2026-11-22T10:15:00Z\n", RFC3339),
        (" 2026-11-22T10:15:00Z", RFC3339),
        ("٢٠٢٦-11-22T10:15:00Z", RFC3339),
        ("2026-13-01T00:00:00Z", "month must be in 1..12"),
        ("2026-00-01T00:00:00Z", "month must be in 1..12"),
        ("2026-02-29T00:00:00Z", "day is out of range for month"),
        ("2026-11-22T25:00:00Z", "hour must be in 0..23"),
        ("2016-12-31T23:59:60Z", "second must be in 0..59"),
        ("0000-01-01T00:00:00Z", "year 0 is out of range"),
        ("0001-01-01T00:00:00Z", "more than 3660 days ago"),
        ("0001-01-01T00:00:00+14:00", "more than 3660 days ago"),
        ("0001-01-01T00:00:00-12:00", "more than 3660 days ago"),
        ("1970-01-01T00:00:00Z", "more than 3660 days ago"),
        ("2016-11-14T10:14:59Z", "more than 3660 days ago"),
        ("2026-11-23T10:15:01Z", "lies in the future; check the sender's clock"),
        ("2099-01-01T00:00:00Z", "lies in the future"),
        ("9999-12-31T23:59:59Z", "lies in the future"),
        ("9999-12-31T23:59:59-12:00", "lies in the future"),
        ("9999-12-31T23:59:59+14:00", "lies in the future"),
    ]
]

SIZES: list[Row] = [
    (
        "a body of one byte more than is taken",
        body() + b" " * (256 * 1024 + 1 - len(body())),
        "body_too_large",
        None,
        "The body has 262145 bytes; at most 262144 are taken",
    ),
    ("a body of a megabyte that is no JSON", b"\xff" * 2**20, "body_too_large", None, "1048576 bytes"),
]

REFUSED = [*NO_TEXT, *NO_JSON, *NO_OBJECT, *NESTED, *TWICE, *NUMBERS, *FIELDS, *IDENTIFIERS, *TIMES, *SIZES]


@pytest.mark.parametrize(
    ("message", "reason", "field", "words"), [pytest.param(*r[1:], id=r[0]) for r in REFUSED]
)
def test_a_bad_message_is_refused_with_its_reason_its_field_and_a_way_out(
    message: bytes, reason: str, field: str | None, words: str
) -> None:
    assert_refused(message, reason, field, words)


@pytest.mark.parametrize("character", [pytest.param(c, id=name) for name, c in INVISIBLE.items()])
@pytest.mark.parametrize(
    ("base", "field"),
    [
        (DEDUCT, "referenceId"),
        (DEDUCT, "userId"),
        (DEDUCT, "feature"),
        (PAYMENT, "packageId"),
        (PAYMENT, "provider"),
        ({**DEDUCT, "type": "account.open", "tokens": GONE}, "tier"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_control_or_invisible_character_hides_in_a_name(
    base: dict[str, Any], field: str, character: str
) -> None:
    refused = refusal_of(body(base, **{field: f"a{character}b"}))
    assert (refused.reason, refused.field) == ("invalid_field", field)
    assert CHARACTERS in refused.message


@pytest.mark.parametrize("character", ["\x00", "\x07", "\n", "\x7f", "\x85", "\u2028", "\u202e"])
def test_no_control_character_hides_in_text_for_people(character: str) -> None:
    text = f"a{character}b"
    assert refusal_of(body(description=text)).field == "description"
    assert refusal_of(body(metadata={"a": text})).field == "metadata.a"
    in_key = refusal_of(body(metadata={text: 1}))
    assert (in_key.reason, in_key.field) == (
        "invalid_field",
        "metadata." + text.encode("unicode_escape").decode(),
    )


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "x" * 200,
        "😀" * 200,
        "two words",
        "ユーザー１",
        "пользователь",
        "مستخدم",
        "é",
        "q\u0323",
        "user@example.com",
        "' OR 1=1; --",
        "{balance}",
        "%s",
        "../../etc/passwd",
        "null",
    ],
)
def test_any_visible_name_is_taken_as_it_stands(name: str) -> None:
    taken = outcome_of(body(referenceId=name, userId=name))
    assert isinstance(taken, DeductUsage)
    assert (taken.reference_id, taken.user_id) == (name, name)


@pytest.mark.parametrize("value", [1, 2**31, 2**53 + 1, 10**15])
def test_a_whole_number_up_to_the_maximum_is_taken_to_the_last_unit(value: int) -> None:
    limits = Limits(max_quantity=max(value, 10**15))
    taken = outcome_of(deduct_of(str(value)), limits)
    assert isinstance(taken, DeductUsage)
    assert taken.tokens == value


def test_the_configured_maximum_goes_up_to_what_the_ledger_can_store() -> None:
    largest = 2**63 - 1
    limits = Limits(max_quantity=largest)
    taken = outcome_of(deduct_of(str(largest)), limits)
    assert isinstance(taken, DeductUsage)
    assert taken.tokens == largest
    assert refusal_of(deduct_of(str(largest + 1)), limits).field == "tokens"


@pytest.mark.parametrize("maximum", [1, 7, 10**15])
def test_the_configured_maximum_itself_is_taken_and_one_more_is_not(maximum: int) -> None:
    limits = Limits(max_quantity=maximum)
    for base, field in [(DEDUCT, "tokens"), (PAYMENT, "amountMinor")]:
        assert not isinstance(outcome_of(body(base, **{field: maximum}), limits), Malformed)
        refused = refusal_of(body(base, **{field: maximum + 1}), limits)
        assert (refused.field, refused.reason) == (field, "invalid_field")
        assert f"at most {maximum} is taken" in refused.message


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:15:00Z", NOW),
        ("2026-11-22t10:15:00z", NOW),
        ("2026-11-22 10:15:00Z", NOW),
        ("2026-11-22T10:15:00+00:00", NOW),
        ("2026-11-22T10:15:00-00:00", NOW),
        ("2026-11-23T00:15:00+14:00", NOW),
        ("2026-11-21T22:15:00-12:00", NOW),
        ("2026-11-22T15:45:00+05:30", NOW),
        ("2026-11-22T10:15:00.5Z", NOW.replace(microsecond=500_000)),
        ("2026-11-22T10:15:00.123456789Z", NOW.replace(microsecond=123_456)),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("2016-11-14T10:15:00Z", NOW - timedelta(days=3660)),
        ("2026-11-23T10:15:00Z", NOW + timedelta(hours=24)),
    ],
)
def test_a_time_with_an_offset_is_that_moment(text: str, moment: datetime) -> None:
    taken = outcome_of(body(occurredAt=text))
    assert isinstance(taken, DeductUsage)
    assert taken.occurred_at == moment


@pytest.mark.parametrize("edge", ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"])
@pytest.mark.parametrize("offset", ["Z", "+14:00", "-12:00", "+23:59", "-23:59"])
@pytest.mark.parametrize(
    "now", [datetime(1, 1, 1, tzinfo=UTC) + timedelta(days=3660), NOW, datetime(9999, 12, 30, tzinfo=UTC)]
)
def test_the_ends_of_the_calendar_are_compared_without_running_over_them(
    edge: str, offset: str, now: datetime
) -> None:
    taken = decode(body(occurredAt=edge + offset), now=now, limits=LIMITS)
    assert isinstance(taken, Malformed | DeductUsage)


def test_a_body_of_exactly_256_kib_is_taken() -> None:
    assert LIMITS.body_max_bytes == 256 * 1024
    assert isinstance(outcome_of(body().ljust(256 * 1024)), DeductUsage)


def test_the_size_is_counted_in_bytes_and_not_in_characters() -> None:
    message = json.dumps({**DEDUCT, "userId": "😀" * 50}, ensure_ascii=False).encode()
    assert isinstance(outcome_of(message, Limits(body_max_bytes=len(message))), DeductUsage)
    assert refusal_of(message, Limits(body_max_bytes=len(message) - 1)).reason == "body_too_large"


@pytest.mark.parametrize("depth", [2, 10, 100, *range(300, 1_000, 7)])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_every_depth_of_nesting_is_refused_whatever_field_it_stands_in(
    depth: int, opening: str, closing: str
) -> None:
    nested = opening * depth + "1" + closing * depth
    for field in ("type", "referenceId", "metadata", "colour"):
        assert isinstance(outcome_of(deduct_of(nested, field)), Malformed)


def test_optional_field_may_be_null_or_left_out() -> None:
    plain = outcome_of(body())
    nulls = dict.fromkeys(("occurredAt", "metadata", "description", "feature"))
    assert outcome_of(body(**nulls)) == plain
    assert outcome_of(body(attempt=1)) == plain


def test_the_order_of_the_fields_and_white_space_say_nothing() -> None:
    shuffled = json.dumps(dict(reversed(DEDUCT.items())), indent=4).encode()
    assert outcome_of(b"\n\t " + shuffled + b"\r\n") == outcome_of(body())


def test_sixteen_keys_of_metadata_are_taken_with_every_kind_of_value() -> None:
    metadata: dict[str, Any] = {f"k{n}": n for n in range(11)}
    metadata |= {"text": "a b", "yes": True, "no": False, "nothing": None, "low": -(2**63)}
    taken = outcome_of(body(metadata=metadata))
    assert isinstance(taken, DeductUsage)
    assert taken.metadata == metadata
    assert taken.metadata is not None
    assert taken.metadata["yes"] is True


def test_a_refusal_keeps_the_identities_that_could_be_read() -> None:
    refused = refusal_of(body(tokens=-1))
    assert (refused.type, refused.reference_id, refused.user_id) == ("usage.deduct", "r-1", "u-1")


@pytest.mark.parametrize("bad", ["", " ", "x" * 201, "a\x00", "\ud800", 5, None, ["r-1"], {"a": 1}, True])
def test_a_refusal_keeps_no_identity_that_is_none(bad: Any) -> None:
    refused = refusal_of(body(referenceId=bad, tokens=-1))
    assert (refused.type, refused.reference_id, refused.user_id) == ("usage.deduct", None, "u-1")
    assert refusal_of(body(type=bad)).type is None


def test_a_refusal_of_what_is_no_object_has_no_identities() -> None:
    refused = refusal_of(b"[]")
    assert (refused.field, refused.type, refused.reference_id, refused.user_id) == (None, None, None, None)


def test_a_bad_message_disturbs_no_neighbour() -> None:
    good = body()
    expected = outcome_of(good)
    for _, bad, *_ in REFUSED:
        assert isinstance(outcome_of(bad), Malformed)
        assert outcome_of(good) == expected


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_every_type_on_the_list_is_understood(name: str) -> None:
    taken = outcome_of(message_bodies.body(name))
    assert type(taken) is MESSAGE_TYPES[name]
    assert taken.type == name


def test_a_batch_is_a_message_and_no_command() -> None:
    assert MESSAGE_TYPES.keys() - COMMAND_TYPES.keys() == {"usage.batch"}
    assert MINIMAL.keys() == MESSAGE_TYPES.keys()


ABOUT_PAYMENTS = (
    "payment.refunded",
    "payment.refund_failed",
    "payment.named",
    "payment.disputed",
    "payment.dispute_closed",
    "payment.failed",
)
#: Fields of the minimal messages that may be absent: what they name is said otherwise, or is known.
OPTIONAL = {
    ("usage.batch", "userId"),
    ("payment.succeeded", "packageIndex"),
    ("payment.refunded", "amountMinor"),
    ("account.freeze", "userId"),
    ("account.unfreeze", "userId"),
    *((name, "userId") for name in ABOUT_PAYMENTS),
}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name, fields in MINIMAL.items()
        for field in fields
        if field != "type" and (name, field) not in OPTIONAL
    ],
)
def test_missing_required_field_is_named(name: str, field: str) -> None:
    assert_refused(
        message_bodies.body(name, **{field: GONE}), "missing_field", field, f"'{field}' is missing"
    )


@pytest.mark.parametrize("name", ABOUT_PAYMENTS)
@pytest.mark.parametrize("absent", [GONE, None], ids=["absent", "null"])
def test_user_of_a_payment_may_be_left_out(name: str, absent: object) -> None:
    decoded: Any = outcome_of(message_bodies.body(name, userId=absent))
    assert type(decoded) is MESSAGE_TYPES[name]
    assert decoded.user_id == NO_USER
    assert "userId" not in json.loads(decoded.to_json())
    assert_refused(message_bodies.body(name, userId=""), "invalid_field", "userId", "must not be empty")


@pytest.mark.parametrize("name", ["account.freeze", "account.unfreeze"])
def test_frozen_account_is_named_by_user_or_by_payment(name: str) -> None:
    by_payment: Any = outcome_of(message_bodies.body(name, userId=GONE, paymentReferenceId="pi_1"))
    assert (by_payment.user_id, by_payment.payment_reference_id) == (NO_USER, "pi_1")
    for changes in ({"userId": GONE}, {"paymentReferenceId": "pi_1"}):
        message = message_bodies.body(name, **changes)
        assert_refused(message, "invalid_field", None, "by userId or by paymentReferenceId, one of the two")


@pytest.mark.parametrize("name", sorted(MINIMAL))
def test_no_type_takes_a_field_that_it_does_not_know(name: str) -> None:
    assert_refused(message_bodies.body(name, colour="red"), "unknown_field", "colour", "known are ")


def test_all_types_are_listed_where_one_is_not_known() -> None:
    for name in MESSAGE_TYPES:
        assert name in refusal_of(body(type="usage.deducted")).message


# -- whatever comes ---------------------------------------------------------------------------------------


@examples(200)
@given(commands())
def test_serialised_command_decodes_to_itself(command: Command) -> None:
    message = command.to_json()
    decoded = outcome_of(message)
    assert decoded == command
    assert type(decoded) is type(command)
    names = {info.alias or name for name, info in type(command).model_fields.items()}
    assert set(json.loads(message)) <= names


@examples(400)
@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_make_decode_raise(message: bytes) -> None:
    assert_fit_for_logs_and_headers(refusal_of(message))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(
        ["usage.deduct", "r-1", "\ud800", "\x00", "2026-11-22T10:15:00Z", "9999-12-31T23:59:59-12:00"]
    ),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
field_names = st.sampled_from(
    [
        *(
            "type",
            "referenceId",
            "userId",
            "occurredAt",
            "metadata",
            "attempt",
            "description",
            "reference_id",
        ),
        *("tokens", "bytes", "tier", "amountMinor", "currency", "packageId", "packageIndex", "feature"),
        *("originalReferenceId", "ttlSeconds", "onExcess", "meter", "quantity", "disputeId", "result"),
        *("reason", "actor", "allowNegative", "effectiveAt", "expiresAt", "priority", "periodStart", "at"),
    ]
) | st.text(st.characters(), max_size=6)


@examples(300)
@given(commands(), st.dictionaries(field_names, json_values, max_size=3), st.lists(field_names, max_size=2))
def test_no_change_of_fields_makes_decode_raise(
    command: Command, changed: dict[str, Any], gone: list[str]
) -> None:
    fields = {**json.loads(command.to_json()), **changed}
    message = json.dumps({name: value for name, value in fields.items() if name not in gone}).encode()
    result = outcome_of(message)
    if isinstance(result, Malformed):
        assert_fit_for_logs_and_headers(result)
    else:
        assert outcome_of(result.to_json()) == result


@examples(200)
@given(commands(), st.data())
def test_no_change_of_bytes_makes_decode_raise(command: Command, data: st.DataObject) -> None:
    message = command.to_json()
    start = data.draw(st.integers(0, len(message)))
    end = data.draw(st.integers(start, min(start + 10, len(message))))
    put = data.draw(
        st.sampled_from([b"", b'"', b"\\", b"\\ud800", b"\x00", b"\xff", b"{", b"]", b",", b"1e999", b"NaN"])
        | st.binary(max_size=4)
    )
    result = outcome_of(message[:start] + put + message[end:])
    if isinstance(result, Malformed):
        assert_fit_for_logs_and_headers(result)


@examples(100)
@given(commands(), st.data())
def test_a_truncated_message_is_refused(command: Command, data: st.DataObject) -> None:
    message = command.to_json()
    cut = data.draw(st.integers(0, len(message) - 1))
    assert refusal_of(message[:cut]).reason in {"not_json", "not_utf8"}


texts = st.text(max_size=4) | st.text(st.characters(), max_size=4) | st.sampled_from(["x" * 64, "x" * 65])


@examples(500)
@given(
    st.dictionaries(
        texts,
        texts | st.none() | st.booleans() | st.floats() | st.integers(-(2**64), 2**64) | st.just(["x"]),
        min_size=1,
        max_size=2,
    )
)
def test_metadata_has_a_fault_when_validation_refuses_it(metadata: dict[str, Any]) -> None:
    """The two must agree: in a batch with many malformed items the fault is looked for first."""
    try:
        TypeAdapter(Metadata).validate_python(metadata)
    except ValidationError:
        assert metadata_fault(metadata) is not None
    else:
        assert metadata_fault(metadata) is None


# -- commands as values -----------------------------------------------------------------------------------


def test_a_command_is_published_in_camel_case_without_what_is_absent() -> None:
    command = DeductUsage(reference_id="r", user_id="u", tokens=5, occurred_at=NOW)
    assert json.loads(command.to_json()) == {
        "type": "usage.deduct",
        "referenceId": "r",
        "userId": "u",
        "tokens": 5,
        "attempt": 1,
        "occurredAt": "2026-11-22T10:15:00Z",
    }


@pytest.mark.parametrize("text", ["👨‍👩‍👧 paid", "می‌خواهم", "\u200fשלום", "\U0001fae9 newer than us"])
def test_text_for_people_keeps_their_scripts(text: str) -> None:
    assert message_bodies.taken(body(description=text)).description == text
