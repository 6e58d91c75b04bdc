"""The kinds of values a message may carry, and what each of them refuses."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StringConstraints

INT64_MAX = 2**63 - 1

# Control, format, surrogate, private-use and unassigned characters are refused everywhere: PostgreSQL can't
# store NUL, and an identifier that looks like another one is a support case.
_VISIBLE = r"[^\p{C}\p{Zl}\p{Zp}]"
_EDGE = r"[^\p{C}\p{Z}]"
# Text for people keeps the joiners of their scripts; what turns the direction of a line around may deceive.
_TEXT = r"[^\p{Cc}\p{Zl}\p{Zp}\u{202A}-\u{202E}\u{2066}-\u{2069}]"

#: Names one operation, one user, one tier, …: 1 to 200 visible characters, no white space at either end.
Identifier = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=200, pattern=rf"^{_EDGE}(?:{_VISIBLE}*{_EDGE})?$"
    ),
]

#: A short label that statistics group by.
Label = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=64, pattern=rf"^{_EDGE}(?:{_VISIBLE}*{_EDGE})?$"),
]

#: Text for people; moves nothing.
FreeText = Annotated[str, StringConstraints(strict=True, max_length=500, pattern=rf"^{_TEXT}*$")]

#: Tokens, bytes or minor units of money: a whole number from 1 to 2^63−1.
Quantity = Annotated[StrictInt, Field(gt=0, le=INT64_MAX)]


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must be 0 or more")
    return value


#: Tokens, bytes or units of a usage: a whole number from 0 to 2^63−1. A usage of zero is a usage.
UsageQuantity = Annotated[
    StrictInt, Field(le=INT64_MAX, json_schema_extra={"minimum": 0}), AfterValidator(_not_negative)
]

#: ISO 4217, upper case.
Currency = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$")]

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


def parse_rfc3339(value: Any) -> datetime:
    """An aware time from an RFC 3339 string such as ``2026-11-22T10:15:00Z``.

    Source: RFC 3339, section 5.6. Digits past microseconds are cut. Raises ValueError with the way out.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:00Z")
    return datetime.fromisoformat(value.upper())


Timestamp = Annotated[datetime, BeforeValidator(parse_rfc3339)]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from error


#: A time that decides what the ledger does: one moment is one value, whatever its offset was.
UtcTimestamp = Annotated[datetime, BeforeValidator(parse_rfc3339), AfterValidator(_in_utc)]

METADATA_MAX_KEYS = 16


def _within_keys(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > METADATA_MAX_KEYS:
        raise ValueError(f"may hold at most {METADATA_MAX_KEYS} keys, has {len(value)}")
    return value


MetadataValue = FreeText | Annotated[StrictInt, Field(ge=-INT64_MAX - 1, le=INT64_MAX)] | StrictBool | None

#: Small and flat: at most 16 keys; strings, 64-bit integers, booleans or null.
Metadata = Annotated[dict[Label, MetadataValue], AfterValidator(_within_keys)]
