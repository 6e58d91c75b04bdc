"""Rule of new ids: no two of them look alike, and an operator's pattern may narrow them further.

The models take any id that an earlier version took: stored commands are read back with them. This rule is
asked when a message comes in (``schemas.decoding``). What costs is bounded: a body of plain ASCII is not
looked at, any other one field by field.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Final, get_args
from unicodedata import is_normalized

from pydantic import StringConstraints, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from schemas.base import BaseMessage
from schemas.fields import IDENTIFIER_MAX, UNTAKEN, NewIdentifier

_UNTAKEN = re.compile(UNTAKEN)
#: Longest pattern of an operator, in characters.
PATTERN_MAX: Final = 500

NFC_TEXT = (
    "is not in Unicode's form NFC, and so would be a second id that looks the same; "
    "normalize it: unicodedata.normalize('NFC', id), in JavaScript id.normalize()"
)


@dataclass(frozen=True, slots=True)
class IdRule:
    """Rule that new ids keep. ``pattern`` is an operator's, which an id must match as a whole.

    ``known`` are ids that the ledger has from the time before the rule: they go on as they are. A user among
    them takes the other ids of the user's commands along, which are often made of it.
    """

    pattern: str | None = None
    known: frozenset[str] = frozenset()

    def is_kept_by_all_of(self, body: bytes) -> bool:
        """Return True where no text in ``body`` can break the rule: nearly always, and at next to no cost."""
        return self.pattern is None and body.isascii() and b"\\" not in body  # an escape may be any character

    def fault(self, value: str) -> str | None:
        """Return the fault of an id that the models take; None without one."""
        if not value.isascii():
            if (found := _UNTAKEN.search(value)) is not None:
                return (
                    f"holds U+{ord(found[0]):04X}, which is invisible or a white space other than a space; "
                    "leave it out"
                )
            if not is_normalized("NFC", value):
                return NFC_TEXT
        if self.pattern is not None and not matches(self.pattern, value):
            return f"does not match the pattern of ids here, {self.pattern!r} (BILLING_ID_PATTERN)"
        return None

    def fault_in(self, message: BaseMessage) -> tuple[str, str] | None:
        """Return the first field of ``message`` that breaks the rule, and the text; None where none does."""
        faults = [
            (field, value, text)
            for field, value in ids_of(message)
            if (text := self.fault(value)) is not None and value not in self.known
        ]
        if not faults:
            return None
        user = getattr(message, "user_id", None)
        if user in self.known and self.fault(user) is not None:
            return None
        field, _, text = faults[0]
        return field, text


#: Rule without an operator's pattern.
ID_RULE: Final = IdRule()


def ids_of(message: BaseMessage) -> Iterator[tuple[str, str]]:
    """Yield each id of a message with its field on the wire, such as ``lots.2.paymentReferenceId``."""
    for wire, name in _places(type(message)):
        value = getattr(message, name)
        if isinstance(value, str) and value:
            yield wire, value
        elif value:  # empty: nobody is named
            yield from _ids_in(wire, value)


def _ids_in(place: str, value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield place, value
        case BaseMessage():
            yield from ((f"{place}.{inner}", one) for inner, one in ids_of(value))
        case tuple():
            for index, one in enumerate(value):
                yield from _ids_in(f"{place}.{index}", one)


@cache
def _places(model: type[BaseMessage]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a model that hold ids, or parts with ids: on the wire, and in Python."""
    return tuple((info.alias or name, name) for name, info in model.model_fields.items() if _has_ids(info))


def _has_ids(info: FieldInfo) -> bool:
    parts = [*info.metadata, *_arguments(info.annotation)]
    inner = [one for one in parts if isinstance(one, type) and issubclass(one, BaseMessage)]
    return any(isinstance(one, NewIdentifier) for one in parts) or any(map(_places, inner))


def _arguments(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in get_args(annotation):
        yield from _arguments(one)


# -- an operator's pattern --------------------------------------------------------------------------------

#: References that programs of this project make, up to the user's id: a pattern must take them.
OWN_REFERENCES: Final = (
    "adjust-0b6f3a52-6f0e-4d53-8a0a-1c1f5f6f7a10",
    "due:7:2026-11-22T10:15:00.000000+00:00",
)


def matches(pattern: str, value: str) -> bool:
    """Return True where the whole of ``value`` matches."""
    return bool(_matcher(pattern).validator.isinstance_python(value))


@lru_cache(maxsize=8)
def _matcher(pattern: str) -> TypeAdapter[str]:
    # Rust's engine: its time is linear in the text whatever the pattern, and it knows no look-around.
    whole = StringConstraints(strict=True, max_length=IDENTIFIER_MAX, pattern=rf"^(?:{pattern})$")
    return TypeAdapter(Annotated[str, whole])


def pattern_fault(pattern: str) -> str | None:
    """Return the reason why ``pattern`` can't be the pattern of ids; None where it can."""
    if len(pattern) > PATTERN_MAX:
        return f"must have at most {PATTERN_MAX} characters"
    try:
        _matcher(pattern)
        re.compile(pattern)  # one that closes our group itself is none
    except (SchemaError, re.error):
        return "is no regular expression that Rust and Python share (no look-around, no backreference)"
    lost = [reference for reference in OWN_REFERENCES if not matches(pattern, reference)]
    if lost:
        return (
            f"does not take {lost[0]!r}, a reference as this program makes it; "
            "let it take letters, digits and -:.+, such as [!-~]+"
        )
    return None
