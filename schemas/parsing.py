"""Parsing of a body's bytes to its JSON object, in bounded time.

The bounds come before the work that grows with what they bound: bytes before decoding, objects and arrays
before parsing.
"""

import codecs
import json
from itertools import accumulate
from operator import is_, itemgetter
from typing import Any, Final

from schemas.dead_letter_reason import DeadLetterReason
from schemas.malformed import MalformedError
from schemas.usage import BATCH_MAX_ITEMS

#: Most objects and arrays of one body. A full batch has 2,002; a batch of too many small items must still be
#: parsed, so that its refusal names it.
CONTAINERS_MAX: Final = 8_192
#: A body of this size can't hold enough of them to be slow.
_SMALL_BYTES = 4_096
#: Depth above which too many containers are called too deep.
_DEPTH_MAX = 64
#: Number of fields above which an object that gives one twice is not searched for its identities.
_PAIRS_MAX = 64


class GivenTwice:
    """A JSON object that gives a field twice. It is no dict, so that every validation refuses it."""

    def __init__(self, pairs: list[tuple[str, Any]], fields: dict[str, Any]) -> None:
        self.name = _first_twice(pairs, fields)
        # Not kept where no command has so many: tens of thousands would only be looked through.
        self._pairs = pairs if len(pairs) <= _PAIRS_MAX else []

    def get(self, name: str) -> Any:
        """Return the value of a field that is given once; None for others, and where there are too many."""
        found = [value for key, value in self._pairs if key == name]
        return found[0] if len(found) == 1 else None


def _first_twice(pairs: list[tuple[str, Any]], fields: dict[str, Any]) -> str:
    """Return the first name of ``pairs`` that is given again; before it they are the ``fields``, in order."""
    are_same = list(map(is_, map(itemgetter(0), pairs), fields))
    return pairs[are_same.index(False) if False in are_same else len(fields)][0]


def parse(body: bytes, max_bytes: int, max_quantity: int) -> dict[str, Any]:
    """Return the one JSON object of ``body``. Raises MalformedError.

    An object inside it that gives a field twice is a ``GivenTwice``.
    """
    if len(body) > _SMALL_BYTES or len(body) > max_bytes:
        _refuse_large(body, max_bytes)
    if body.startswith(_MARKS):
        raise MalformedError(
            DeadLetterReason.BYTE_ORDER_MARK, "The body begins with a byte order mark; send plain UTF-8."
        )
    try:
        data = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedError(
            DeadLetterReason.NOT_UTF8, f"The body is not UTF-8: bad byte at {error.start}."
        ) from error
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise MalformedError(
            DeadLetterReason.NOT_JSON, f"The body is not JSON: {shown(str(error))}."
        ) from error
    except ValueError as error:  # int() refuses more than some thousand digits
        raise MalformedError(
            DeadLetterReason.INVALID_FIELD, f"A number is too large: at most {max_quantity} is taken."
        ) from error
    if not isinstance(data, dict):
        if isinstance(data, GivenTwice):
            raise given_twice(data)
        raise MalformedError(
            DeadLetterReason.NOT_AN_OBJECT, f"The body is a JSON {_json_kind(data)}; a command is one object."
        )
    return data


def given_twice(twice: GivenTwice, place: str = "") -> MalformedError:
    """Return the refusal of an object at ``place`` (such as ``items.3.``) that gives a field twice."""
    field = place + shown(twice.name)
    return MalformedError(
        DeadLetterReason.DUPLICATE_FIELD, f"The field {field!r} is given twice; send it once.", field
    )


def shown(value: Any) -> str:
    """Return at most 80 printable characters of what a producer sent, fit for logs and headers.

    For an array or an object it is only the kind: the text of a large one takes long to write.
    """
    text = f"a JSON {_json_kind(value)}" if isinstance(value, _LARGE) else str(value)
    if len(text) <= 80 and text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return text[:80].encode("unicode_escape").decode("ascii")


_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _refuse_large(body: bytes, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise MalformedError(
            DeadLetterReason.BODY_TOO_LARGE, f"The body has {len(body)} bytes; at most {max_bytes} are taken."
        )
    if _containers(body) <= CONTAINERS_MAX:
        return
    # Text may hold braces: without escaped quotes, every second piece between quotes is outside of a string.
    outside = b"".join(body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    if _containers(outside) <= CONTAINERS_MAX:
        return
    brackets = outside.translate(None, delete=_NO_BRACKETS)[:CONTAINERS_MAX]
    if max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets)) > _DEPTH_MAX:
        raise _too_deep()
    raise MalformedError(
        DeadLetterReason.INVALID_FIELD,
        f"The body holds more than {CONTAINERS_MAX} objects and arrays; at most {BATCH_MAX_ITEMS} items, "
        "each with its metadata, are taken.",
    )


def _containers(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _too_deep() -> MalformedError:
    return MalformedError(
        DeadLetterReason.TOO_DEEP, "The body is nested too deeply; a command is one flat object."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | GivenTwice:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else GivenTwice(pairs, fields)


def _no_constant(name: str) -> Any:
    raise MalformedError(DeadLetterReason.NOT_JSON, f"{name} is no JSON number; amounts are whole numbers.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)

_LARGE = (dict, list, GivenTwice)
_KINDS = {
    dict: "object",
    GivenTwice: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}


def _json_kind(value: Any) -> str:
    return _KINDS[type(value)]
