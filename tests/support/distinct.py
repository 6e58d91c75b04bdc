"""Dataclasses whose every field has a value of its own and not its default: none can be mixed up."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import count
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from schemas import Code, Status
from worker.core import Outcome

T = TypeVar("T")
_START = datetime(2026, 1, 1, tzinfo=UTC)


def distinct(kind: type[T], **given: Any) -> T:
    """Return an instance of the dataclass ``kind``, with the values that are ``given`` as they are."""
    numbers = count(1)
    hints = get_type_hints(kind)
    values = {
        field.name: _value(hints[field.name], field.default, field.name, next(numbers))
        for field in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**{**values, **given})


def _value(hint: Any, default: Any, name: str, number: int) -> Any:
    """Return a value of the type ``hint`` that isn't ``default``."""
    if isinstance(hint, UnionType):
        hint = next(one for one in get_args(hint) if one is not NoneType)
    origin = get_origin(hint)
    if hint is bool:
        return default is MISSING or not default
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(member for member in reversed(hint) if member is not default)
    if origin is tuple:
        return _tuple(get_args(hint)[0], number)
    if origin is not None and issubclass(origin, Mapping):
        return {name: number}
    values = {
        int: number,
        str: f"{name}-{number}",
        datetime: _START + timedelta(days=number),
        date: _START.date(),
    }
    return values[hint] if hint in values else _outcome(number)


def _tuple(item: Any, number: int) -> tuple[Any, ...]:
    pairs = ((number, number + 100), (number + 200, number + 300))
    return pairs if get_origin(item) is tuple else tuple({"number": one} for one, _ in pairs)


def _outcome(number: int) -> Outcome:
    reference = f"reference-{number}"
    return Outcome(reference, "type", "user", 1, "{}", Status.APPLIED, Code.TOKENS_DEDUCTED, _START)
