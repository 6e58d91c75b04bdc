"""Types of the values that a message may carry, and what each of them refuses."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema

INT64_MAX = 2**63 - 1

# Control, format, surrogate, private-use and unassigned characters are refused everywhere: PostgreSQL can't
# store NUL, and an identifier that looks like another one is a support case.
_VISIBLE = r"[^\p{C}\p{Zl}\p{Zp}]"
_EDGE = r"[^\p{C}\p{Z}]"
# Text for people keeps the joiners of their scripts; what turns the direction of a line around may deceive.
_TEXT = r"[^\p{Cc}\p{Zl}\p{Zp}\u{202A}-\u{202E}\u{2066}-\u{2069}]"

# What no new id holds beyond that, by Unicode 16: white space other than a space, and the default-ignorable
# characters that are no format characters (DerivedCoreProperties.txt).
_IGNORABLE = (
    r"\u{34F}\u{115F}-\u{1160}\u{17B4}-\u{17B5}\u{180B}-\u{180F}\u{3164}\u{FE00}-\u{FE0F}"
    r"\u{FFA0}\u{E0100}-\u{E01EF}"
)
_WIDE_SPACES = r"\u{A0}\u{1680}\u{2000}-\u{200A}\u{202F}\u{205F}\u{3000}"
_NEW_EDGE = rf"[^\p{{C}}\p{{Z}}{_IGNORABLE}]"
_NEW_VISIBLE = rf"[^\p{{C}}\p{{Zl}}\p{{Zp}}{_WIDE_SPACES}{_IGNORABLE}]"
#: What no new id holds, in the syntax of Python's ``re``.
UNTAKEN = re.sub(
    r"\\u\{(\w+)\}", lambda point: f"\\U{int(point[1], 16):08X}", f"[{_WIDE_SPACES}{_IGNORABLE}]"
)

IDENTIFIER_MAX = 200
LABEL_MAX = 64
TEXT_MAX = 500

#: An id of any version: 1 to 200 visible characters, no white space at either end. For what only reads.
StoredIdentifier = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=IDENTIFIER_MAX, pattern=rf"^{_EDGE}(?:{_VISIBLE}*{_EDGE})?$"
    ),
]


class NewIdentifier:
    """Mark of the ids of a command, whose schema is the rule of new ids (``schemas.identifiers``).

    The values themselves are those of any version: a stored command must be readable for ever.
    """

    DESCRIPTION = (
        "Opaque: nothing is read out of an id, and no personal data belongs in one. Unicode in the form NFC."
    )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema that producers keep."""
        schema = handler(core)
        return {
            **schema,
            "description": self.DESCRIPTION,
            "pattern": rf"^{_NEW_EDGE}(?:{_NEW_VISIBLE}*{_NEW_EDGE})?$",
        }


#: Names one operation, one user, one tier, …: see ``NewIdentifier``.
Identifier = Annotated[StoredIdentifier, NewIdentifier()]

#: A short label that statistics group by.
Label = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=LABEL_MAX, pattern=rf"^{_EDGE}(?:{_VISIBLE}*{_EDGE})?$"
    ),
]

#: Text for people; moves nothing.
FreeText = Annotated[str, StringConstraints(strict=True, max_length=TEXT_MAX, pattern=rf"^{_TEXT}*$")]

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
    """Return an aware time from an RFC 3339 string such as ``2026-11-22T10:15:00Z``.

    Source: RFC 3339, section 5.6. Digits past microseconds are cut. Raises ValueError with a correct example.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:00Z")
    return datetime.fromisoformat(value.upper())


Timestamp = Annotated[datetime, BeforeValidator(parse_rfc3339)]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def parse_day(value: Any) -> date:
    """Return a day from ISO 8601 such as ``2026-11-22``. Raises ValueError with a correct example."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day such as 2026-11-22")
    return date.fromisoformat(value)


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from error


#: A time that decides what the ledger does: one moment is one value, whatever its offset was.
UtcTimestamp = Annotated[datetime, BeforeValidator(parse_rfc3339), AfterValidator(_in_utc)]

#: Replies that a sender wants: to every message, to those that are rejected or failed, or to none.
WantedReplies = Literal["all", "problems", "none"]

METADATA_MAX_KEYS = 16


def _within_keys(value: Any) -> Any:
    # Before the keys are validated: an error was made for each of tens of thousands.
    if isinstance(value, dict) and len(value) > METADATA_MAX_KEYS:
        raise ValueError(f"may hold at most {METADATA_MAX_KEYS} keys, has {len(value)}")
    return value


MetadataValue = FreeText | Annotated[StrictInt, Field(ge=-INT64_MAX - 1, le=INT64_MAX)] | StrictBool | None

#: Small and flat: at most 16 keys; strings, 64-bit integers, booleans or null.
Metadata = Annotated[
    dict[Label, MetadataValue],
    BeforeValidator(_within_keys),
    Field(json_schema_extra={"maxProperties": METADATA_MAX_KEYS}),
]

#: Faults of a text, in words for producers.
CHARACTERS_TEXT = (
    "holds characters that are not taken (control or invisible characters, white space at either end)"
)
HALF_A_PAIR_TEXT = "holds half of a surrogate pair; send valid Unicode"

HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def metadata_fault(value: Any) -> tuple[str | None, str] | None:
    """Return the first fault of what ``Metadata`` refuses: its key (None: the whole), and a text; or None.

    It stops there, which pydantic does not: to refuse sixteen bad values takes it ten times as long.
    """
    if not isinstance(value, dict):
        return None if value is None else (None, "must be an object")
    if len(value) > METADATA_MAX_KEYS:
        return None, f"may hold at most {METADATA_MAX_KEYS} keys, has {len(value)}"
    for key, one in value.items():
        if (text := _key_fault(key) or _value_fault(one)) is not None:
            return key, text
    return None


def is_plain(name: str, max_length: int) -> bool:
    """Return True for printable ASCII, as nearly all names are: then no pattern needs to be matched."""
    return name.isascii() and name.isprintable() and 0 < len(name) <= max_length and name == name.strip(" ")


_LABEL: TypeAdapter[str] = TypeAdapter(Label)


def _key_fault(key: str) -> str | None:
    if is_plain(key, LABEL_MAX):
        return None
    if not key:
        return "must not be empty"
    if len(key) > LABEL_MAX:
        return f"must have at most {LABEL_MAX} characters"
    if key.isascii():
        return CHARACTERS_TEXT
    try:
        _LABEL.validate_python(key)
    except ValidationError:
        return HALF_A_PAIR_TEXT if HALF_A_PAIR.search(key) else CHARACTERS_TEXT
    return None


def _value_fault(value: Any) -> str | None:
    if isinstance(value, str):
        if len(value) > TEXT_MAX:
            return f"must have at most {TEXT_MAX} characters"
        if value.isprintable() or _NO_TEXT.search(value) is None:
            return None
        return HALF_A_PAIR_TEXT if HALF_A_PAIR.search(value) else CHARACTERS_TEXT
    if value is None or (isinstance(value, int) and -INT64_MAX - 1 <= value <= INT64_MAX):
        return None
    return "must be a string, a whole number of 64 bits, true, false or null"
