"""Reasons why a value is no command and no query, in words for producers and at bounded cost."""

import difflib
from functools import cache
from itertools import islice
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.base import BaseMessage
from schemas.commands import MESSAGE_TYPES
from schemas.dead_letter_reason import DeadLetterReason
from schemas.fields import CHARACTERS_TEXT, HALF_A_PAIR, HALF_A_PAIR_TEXT, metadata_fault
from schemas.malformed import MalformedError
from schemas.parsing import GivenTwice, given_twice, shown
from schemas.queries import QUERY_TYPES
from schemas.usage import ITEM_TYPES, BatchEnvelope

Model = type[BaseMessage]

#: Most unknown fields that a refusal names, and most characters of each.
NAMED_MAX: Final = 10
_NAME_MAX = 80
#: Most of them in one message; of further items only the first unknown field is named, and how many more.
_NAMED_IN_ALL = 500
#: Most names of one message for which a near one is looked for: it takes some 50 µs each.
_LOOK_UPS_MAX = 20
#: Number of refused items after which the next are looked at before they are validated.
_WARY_AFTER = 20

#: The fields of each type, as they are called on the wire.
NAMES: Final[dict[Model, frozenset[str]]] = {
    model: frozenset(info.alias or name for name, info in model.model_fields.items())
    for model in (*MESSAGE_TYPES.values(), *QUERY_TYPES.values(), BatchEnvelope)
}


class Refusals:
    """Explains what is refused of one message, whole or item by item."""

    def __init__(self) -> None:
        self._near: dict[tuple[str, Model], str | None] = {}
        self._room = _NAMED_IN_ALL
        self._count = 0
        self._is_wary = False

    def foresees(self, data: dict[str, Any]) -> bool:
        """Return True where validation of ``data`` would be a waste, once some items of a batch were refused.

        It costs most where metadata is bad, which ``metadata_fault`` finds faster; a good item must not pay.
        """
        self._is_wary = self._count >= _WARY_AFTER
        return self._is_wary and metadata_fault(data.get("metadata")) is not None

    def of(
        self, data: dict[str, Any], model: Model, error: ValidationError | None, place: str
    ) -> MalformedError:
        """Return the refusal of ``data`` at ``place`` (empty, or such as ``items.3.``).

        A misspelt name is both missing and unknown: "did you mean" helps more than "is missing", so unknown
        fields come first. ``error`` is what validation says of the known ones.
        """
        self._count += 1
        names = NAMES[model]
        if not data.keys() <= names:
            unknown = len(data) - sum(map(data.__contains__, names))
            some = (name for name in data if name not in names)
            first = list(islice(some, min(NAMED_MAX, max(self._room, 1))))
            self._room -= len(first)
            return self._unknown(first, unknown, model, place)
        if GivenTwice in map(type, data.values()):
            name, twice = next(pair for pair in data.items() if isinstance(pair[1], GivenTwice))
            return given_twice(twice, f"{place}{name}.")
        has_looked = error is not None and self._is_wary
        if not has_looked and (fault := metadata_fault(data.get("metadata"))) is not None:
            key, text = fault
            return _refused_value("metadata" if key is None else f"metadata.{shown(key)}", place, text)
        if error is None:
            raise AssertionError("nothing to refuse")
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        return _invalid(faults[0], place)

    def _unknown(self, first: list[str], count: int, model: Model, place: str) -> MalformedError:
        if any(HALF_A_PAIR.search(name, 0, _NAME_MAX) for name in first):
            return _refused_value("", place, _HALF_A_PAIR_IN_NAME)
        field = place + shown(first[0]) or None
        if count == 1:
            near = self._nearest(first[0], model)
            way_out = _known(model) if near is None else f"did you mean {near!r}?"
            return MalformedError(
                DeadLetterReason.UNKNOWN_FIELD, f"The field {field!r} is not known; {way_out}", field
            )
        names = ", ".join(repr(place + _short(name)) for name in first)
        more = f" and {count - len(first)} more" if count > len(first) else ""
        text = f"The fields {names}{more} are not known; {self._meant(first, model)}{_known(model)}"
        return MalformedError(DeadLetterReason.UNKNOWN_FIELD, text, field)

    def _meant(self, unknown: list[str], model: Model) -> str:
        meant = [(near, name) for name in unknown if (near := self._nearest(name, model)) is not None]
        if not meant:
            return ""
        return f"did you mean {', '.join(f'{near!r} for {_short(name)!r}' for near, name in meant)}? "

    def _nearest(self, name: str, model: Model) -> str | None:
        key = (name[:_NAME_MAX], model)
        if key not in self._near:
            if len(self._near) == _LOOK_UPS_MAX:
                return None
            close = difflib.get_close_matches(key[0], sorted(NAMES[model]), n=1)
            self._near[key] = close[0] if close else None
        return self._near[key]


@cache
def _known(model: Model) -> str:
    return f"known are {', '.join(sorted(NAMES[model]))}."


def _short(name: str) -> str:
    return shown(name)[:_NAME_MAX]


def _invalid(fault: ErrorDetails, place: str) -> MalformedError:
    loc = fault["loc"]
    # Field, or field and metadata key, or field of a part; what pydantic adds behind names the key.
    is_in_list = len(loc) > 1 and isinstance(loc[1], int)
    field = ".".join([shown(part) for part in loc[: 3 if is_in_list else 2]])
    text = _WAYS_OUT.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    match fault["type"], loc:
        case "missing", _:
            return MalformedError(
                DeadLetterReason.MISSING_FIELD, f"The field {place + field!r} is missing.", place + field
            )
        case "string_pattern_mismatch", (*_, "currency"):
            text = "must be three capital letters (ISO 4217), such as USD"
        case "string_pattern_mismatch", ("groupBy",):
            text = "must be day, feature, type, or metadata. with a key behind it"
        case "string_unicode", ():
            text = _HALF_A_PAIR_IN_NAME
    return _refused_value(field, place, text)


def _refused_value(field: str, place: str, text: str) -> MalformedError:
    where = place + field if field else place.rstrip(".")
    return MalformedError(
        DeadLetterReason.INVALID_FIELD, f"{where}: {text}" if where else text, where or None
    )


def refused_item(item: Any, place: str) -> MalformedError:
    """Return the refusal of an item of a batch that has no type by which it could be read."""
    if isinstance(item, GivenTwice):
        return given_twice(item, place)
    kinds = ", ".join(sorted(ITEM_TYPES))
    if not isinstance(item, dict):
        text = "must be an object"
    elif "type" not in item:
        text = f"has no type; an item is one of {kinds}"
    else:
        text = f"has a type that no item may have; it is one of {kinds}"
    return _refused_value("", place, text)


_HALF_A_PAIR_IN_NAME = "The name of a field holds half of a surrogate pair; send valid Unicode"

#: Errors of pydantic, in words for producers.
_WAYS_OUT = {
    "int_type": "must be a whole number, without quotes, fraction or exponent",
    "int_from_float": "must be a whole number, without quotes, fraction or exponent",
    "greater_than": "must be 1 or more",
    "string_pattern_mismatch": CHARACTERS_TEXT,
    "string_unicode": HALF_A_PAIR_TEXT,
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "extra_forbidden": "is not known",
    "model_type": "must be an object that gives each field once",
    "tuple_type": "must be an array",
    "dict_type": "must be an object",
    "bool_type": "must be true or false",
}
