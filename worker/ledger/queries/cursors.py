"""Cursors of pages: the owner of a list and a place in it, as text that callers only pass back.

The owner is an account, or a run; it is 0 for lists of all.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from schemas.fields import INT64_MAX
from worker.errors import QueryError

_REFUSED = "the cursor is none of this list's; take the next one from a page of it"
_NUMBERS = re.compile(rb"\d{1,19}(\.\d{1,19}){1,3}")


def cursor_of(owner: int, *place: int) -> str:
    """Return the cursor of a place, which is one to three whole numbers from zero."""
    text = b".".join(b"%d" % number for number in (owner, *place))
    return urlsafe_b64encode(text).decode().rstrip("=")


def place_in(cursor: str, owner: int, numbers: int) -> tuple[int, ...]:
    """Return the place in a cursor, of so many ``numbers``.

    Raises QueryError for a cursor that ``cursor_of`` doesn't make for this owner.
    """
    place = _numbers_in(cursor)[1:]
    if len(place) != numbers or max(place) > INT64_MAX or cursor_of(owner, *place) != cursor:
        raise refused_cursor()
    return place


def _numbers_in(cursor: str) -> tuple[int, ...]:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:  # not ASCII, or no Base64
        return ()
    return tuple(map(int, text.split(b"."))) if _NUMBERS.fullmatch(text) else ()


def refused_cursor() -> QueryError:
    """Return the error for a cursor that is no place of the list."""
    return QueryError(_REFUSED, "cursor")
