"""Strict reading of a gateway's JSON: a value is what the gateway documents, or the event is malformed.

Nothing is converted but what gateways send as text by design: Paddle's amounts, and the case of currencies.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from schemas.fields import INT64_MAX, parse_rfc3339
from worker.gateways.mapped import Mapped, NoCommandError, Reason

#: Characters of an id. A colon would let one object's id look like another one's transition.
_ID = re.compile(r"[A-Za-z0-9_-]{1,120}")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_DIGITS = re.compile(r"[0-9]{1,19}")
_SIGNED_DIGITS = re.compile(r"-?[0-9]{1,19}")

T = TypeVar("T")


class SurpriseError(NoCommandError):
    """A value that the gateway does not document; the text names its place."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(Reason.MALFORMED, f"{place}: {text}")


class Payload:
    """JSON object of a payload. Every reader raises SurpriseError with the place of the value.

    ``null`` is as good as absent.
    """

    def __init__(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            raise SurpriseError(place, f"must be an object, is {_kind(data)}")
        self._data: Final[Mapping[str, Any]] = data
        self.place = place

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def names(self) -> frozenset[str]:
        """Return the names of all fields, also of those that are null."""
        return frozenset(self._data)

    def raw(self, name: str) -> Any:
        """Return the value as it is; None where it is absent."""
        return self._data.get(name)

    def text(self, name: str) -> str:
        """Return a text."""
        return self._required(name, self.optional_text(name))

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None."""
        value = self._data.get(name)
        if value is not None and not isinstance(value, str):
            raise self._surprise(name, f"must be text, is {_kind(value)}")
        return value

    def integer(self, name: str) -> int:
        """Return a whole number of 64 bits, not negative."""
        return self._required(name, self.optional_integer(name))

    def optional_integer(self, name: str) -> int | None:
        """Return a whole number of 64 bits, not negative, or None."""
        value = self._data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._surprise(name, f"must be a whole number, is {_kind(value)}")
        if not 0 <= value <= INT64_MAX:
            raise self._surprise(name, "must be a whole number from 0 to 2^63−1")
        return value

    def signed(self, name: str) -> int:
        """Return a whole number of 64 bits, which may be negative."""
        value = self._data.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._surprise(name, f"must be a whole number, is {_kind(value)}")
        if not -INT64_MAX <= value <= INT64_MAX:
            raise self._surprise(name, "must be a whole number of 64 bits")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is absent."""
        value = self._data.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._surprise(name, f"must be true or false, is {_kind(value)}")
        return bool(value)

    def minor(self, name: str) -> int:
        """Return an amount of minor units that the gateway sends as text, such as "1999"."""
        value = self.text(name)
        if not _DIGITS.fullmatch(value) or int(value) > INT64_MAX:
            raise self._surprise(name, 'must be digits alone, such as "1999"')
        return int(value)

    def signed_minor(self, name: str) -> int:
        """Return an amount of minor units as text, which is negative where it is given back."""
        value = self.text(name)
        if not _SIGNED_DIGITS.fullmatch(value) or abs(int(value)) > INT64_MAX:
            raise self._surprise(name, 'must be digits alone, such as "1999" or "-1999"')
        return int(value)

    def optional_signed_minor(self, name: str) -> int | None:
        """Return an amount of minor units as text, which may be negative, or None."""
        return self.signed_minor(name) if name in self else None

    def optional_minor(self, name: str) -> int | None:
        """Return an amount of minor units that the gateway sends as text, or None."""
        return self.minor(name) if name in self else None

    def currency(self, name: str) -> str:
        """Return a currency in capital letters."""
        value = self.text(name)
        if not _CURRENCY.fullmatch(value):
            raise self._surprise(name, "must be three letters, such as usd")
        return value.upper()

    def id(self, name: str = "id") -> str:
        """Return the id of an object, or of one that is expanded in its place."""
        return self._required(name, self.optional_id(name))

    def optional_id(self, name: str = "id") -> str | None:
        """Return the id of an object, or of one that is expanded in its place, or None."""
        value = self._data.get(name)
        if isinstance(value, dict):
            return self.object(name).id()
        if value is None:
            return None
        if not isinstance(value, str) or not _ID.fullmatch(value):
            raise self._surprise(name, "must be an id of letters, digits, - and _, at most 120")
        return value

    def optional_key(self, name: str) -> str | None:
        """Return a name that people choose, such as a plan's, or that of an object in its place, or None."""
        value = self._data.get(name)
        return self.object(name).text("id") if isinstance(value, dict) else self.optional_text(name)

    def unix_time(self, name: str) -> datetime:
        """Return a time that is given in seconds since 1970."""
        return self._required(name, self.optional_unix_time(name))

    def optional_unix_time(self, name: str) -> datetime | None:
        """Return a time that is given in seconds since 1970, or None."""
        value = self.optional_integer(name)
        try:
            return None if value is None else datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            raise self._surprise(name, "must be seconds since 1970") from None

    def time(self, name: str) -> datetime:
        """Return a time that is given as RFC 3339."""
        return self._required(name, self.optional_time(name))

    def optional_time(self, name: str) -> datetime | None:
        """Return a time that is given as RFC 3339, or None."""
        value = self._data.get(name)
        try:
            return None if value is None else parse_rfc3339(value).astimezone(UTC)
        except (OverflowError, ValueError):
            raise self._surprise(name, "must be an RFC 3339 time") from None

    def object(self, name: str) -> "Payload":
        """Return an object."""
        return self._required(name, self.optional_object(name))

    def optional_object(self, name: str) -> "Payload | None":
        """Return an object, or None."""
        value = self._data.get(name)
        return None if value is None else Payload(value, f"{self.place}.{name}")

    def objects(self, name: str) -> "list[Payload]":
        """Return the objects of an array; an absent one has none."""
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._surprise(name, f"must be an array, is {_kind(value)}")
        return [Payload(item, f"{self.place}.{name}.{index}") for index, item in enumerate(value)]

    def _required(self, name: str, value: T | None) -> T:
        if value is None:
            raise self._surprise(name, "is missing")
        return value

    def _surprise(self, name: str, text: str) -> SurpriseError:
        return SurpriseError(f"{self.place}.{name}", text)


def require_mode(is_live: bool, *, takes_live: bool) -> None:  # noqa: FBT001 - what the event says
    """Raise NoCommandError for a test where live events are taken, and the other way round."""
    if is_live is not takes_live:
        came, takes = ("test", "live") if takes_live else ("live", "test")
        raise NoCommandError(Reason.WRONG_MODE, f"a {came} event, and only {takes} events are taken (`mode`)")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def mapped(mapping: Callable[[], Mapped]) -> Mapped:
    """Return the result of ``mapping``; whatever the event holds, a reason and no error."""
    try:
        return mapping()
    except NoCommandError as none:
        return Mapped.nothing(none.reason, none.detail)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "command"
        return Mapped.nothing(Reason.MALFORMED, f"{error.title}.{place}: {first['msg']}")
