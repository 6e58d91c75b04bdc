"""Parameters of a request as the query that a broker would have carried.

They become the JSON object of that query, which ``schemas.decode_query`` judges: so a bad value, an unknown
parameter and one that is given twice are refused here in the same words as there.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

from schemas import Limits, Malformed, Query, decode_query
from schemas.dead_letter_reason import DeadLetterReason
from schemas.malformed import MalformedError
from schemas.parsing import shown

#: Whole number that is JSON as it stands. A longer one stays text, and is refused as such.
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,99})", re.ASCII)
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_Fields = Sequence[tuple[str, str]]


class Parameters:
    """Parameters of one type of query."""

    def __init__(self, query: type[Query]) -> None:
        self._type: str = query.model_fields["type"].default
        fields: dict[str, dict[str, Any]] = query.model_json_schema(by_alias=True)["properties"]
        self._whole_numbers = frozenset(name for name, field in fields.items() if "integer" in _types(field))

    def query_in(self, query_string: bytes, limits: Limits) -> Query | Malformed:
        """Return the query that ``query_string`` asks, or the reason why it is none."""
        try:
            fields = list(_fields(query_string))
            body = self._body(fields)
        except MalformedError as refused:
            return Malformed(refused.reason, refused.message, refused.field, self._type)
        decoded = decode_query(body, limits=limits)
        return _with_hint(decoded, fields, query_string) if isinstance(decoded, Malformed) else decoded

    def _body(self, fields: _Fields) -> bytes:
        """Return the JSON object of the query, which has a field twice where it is given twice."""
        pairs = [f'"type":"{self._type}"']
        for name, value in fields:
            if name == "type":
                raise MalformedError(
                    DeadLetterReason.UNKNOWN_FIELD, "The field 'type' is not known; the path says it.", name
                )
            is_number = name in self._whole_numbers and _WHOLE.fullmatch(value)
            pairs.append(f"{json.dumps(name)}:{value if is_number else json.dumps(value)}")
        return f"{{{','.join(pairs)}}}".encode()


def _types(field: dict[str, Any]) -> set[str]:
    return {one["type"] for one in (field, *field.get("anyOf", ())) if "type" in one}


def _fields(query_string: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and values in the order they are given in. Raises MalformedError."""
    for piece in filter(None, query_string.split(b"&")):
        name, _, value = piece.partition(b"=")
        plain = _plain(name, None)
        yield plain, _plain(value, shown(plain))


def _plain(encoded: bytes, field: str | None) -> str:
    """Return percent-encoded UTF-8 as text; a plus is a space, as forms and URLSearchParams write one."""
    where = "The name of a parameter" if field is None else field
    if _BAD_PERCENT.search(encoded):
        raise MalformedError(
            DeadLetterReason.INVALID_FIELD,
            f"{where}: a % must be followed by two hexadecimal digits; write %25 for the character itself",
            field,
        )
    try:
        return unquote_to_bytes(encoded.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise MalformedError(
            DeadLetterReason.INVALID_FIELD, f"{where}: is not UTF-8; percent-encode its UTF-8 bytes", field
        ) from None


def _with_hint(refused: Malformed, fields: _Fields, query_string: bytes) -> Malformed:
    """Return the refusal; where a plus was read as a space, with the way to send one."""
    if b"+" not in query_string or not any(name == refused.field and " " in value for name, value in fields):
        return refused
    hint = "in a query string a plus is a space: write %2B for a plus"
    return replace(refused, message=f"{refused.message}; {hint}")
