"""From the bytes of a message to a command, or to the reason why there is none.

``decode`` never raises: whatever a producer sends, its neighbours in the batch go on.
"""

import codecs
import difflib
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from schemas.commands import MESSAGE_TYPES, Command, type_of
from schemas.fields import Identifier
from schemas.usage import BATCH_MAX_ITEMS, DeductUsage, FreeUpload, RecordUsage, UsageBatch

#: Largest message body, in bytes.
BODY_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a message may ask for. ``max_quantity`` counts tokens, bytes or minor units of money."""

    body_max_bytes: int = BODY_MAX_BYTES
    max_quantity: int = 10**15  # well below 2^53, above which JavaScript loses units
    occurred_at_max_age: timedelta = timedelta(
        days=3660
    )  # a dead letter replayed years later is still welcome
    occurred_at_max_ahead: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Malformed:
    """Why a message is no command.

    ``reason`` is one of ``body_too_large``, ``byte_order_mark``, ``not_utf8``, ``not_json``, ``too_deep``,
    ``duplicate_field``, ``not_an_object``, ``missing_field``, ``unknown_field``, ``unknown_type``,
    ``invalid_field``; the pipeline adds ``wrong_sender`` and ``wrong_routing_key``. The identities are
    given where they could be read.
    """

    reason: str
    message: str
    field: str | None = None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None


class _RefusedError(Exception):
    def __init__(self, reason: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.field = reason, message, field


def decode(body: bytes, *, now: datetime, limits: Limits) -> Command | UsageBatch | Malformed:
    """The command or the batch of them that ``body`` holds, or why it holds none.

    ``now`` is what times are measured against.
    """
    data: Any = None
    try:
        data = _parse(body, limits)
        return _bounded(_message(data), now, limits)
    except _RefusedError as refused:
        return Malformed(refused.reason, refused.message, refused.field, **_identities(data))


def _parse(body: bytes, limits: Limits) -> dict[str, Any]:
    if len(body) > limits.body_max_bytes:
        raise _RefusedError(
            "body_too_large", f"The body has {len(body)} bytes; at most {limits.body_max_bytes} are taken."
        )
    if body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _RefusedError("byte_order_mark", "The body begins with a byte order mark; send plain UTF-8.")
    try:
        data = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _RefusedError("not_utf8", f"The body is not UTF-8: bad byte at {error.start}.") from error
    except RecursionError as error:
        raise _RefusedError(
            "too_deep", "The body is nested too deeply; a command is one flat object."
        ) from error
    except json.JSONDecodeError as error:
        raise _RefusedError("not_json", f"The body is not JSON: {_shown(str(error))}.") from error
    except ValueError as error:  # int() refuses more than some thousand digits
        raise _RefusedError(
            "invalid_field", f"A number is too large: at most {limits.max_quantity} is taken."
        ) from error
    if not isinstance(data, dict):
        raise _RefusedError(
            "not_an_object", f"The body is a JSON {_json_kind(data)}; a command is one object."
        )
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counts = Counter(name for name, _ in pairs)  # one pass: tens of thousands of names fit in a body
        twice = _shown(next(name for name, count in counts.items() if count > 1))
        raise _RefusedError("duplicate_field", f"The field {twice!r} is given twice; send it once.", twice)
    return fields


def _no_constant(name: str) -> Any:
    raise _RefusedError("not_json", f"{name} is no JSON number; amounts are whole numbers.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _message(data: dict[str, Any]) -> Command | UsageBatch:
    if "type" not in data:
        raise _RefusedError("missing_field", "The field 'type' is missing; " + _known_types(), "type")
    name = data["type"]
    model = MESSAGE_TYPES.get(name) if isinstance(name, str) else None
    if model is None:
        raise _RefusedError(
            "unknown_type", f"The type {_shown(name)!r} is not known; " + _known_types(), "type"
        )
    try:
        return model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False), model) from error


def _bounded(message: Command | UsageBatch, now: datetime, limits: Limits) -> Command | UsageBatch:
    if isinstance(message, UsageBatch):
        for index, item in enumerate(message.items):
            _within(item, now, limits, f"items.{index}.")
    else:
        _within(message, now, limits)
    return message


def _within(command: Command, now: datetime, limits: Limits, place: str = "") -> None:
    if command.QUANTITY is not None and abs(getattr(command, command.QUANTITY)) > limits.max_quantity:
        field = place + to_camel(command.QUANTITY)
        raise _RefusedError("invalid_field", f"{field}: at most {limits.max_quantity} is taken.", field)
    if (at := command.occurred_at) is not None:
        field = f"{place}occurredAt"
        if at < now - limits.occurred_at_max_age:
            raise _RefusedError(
                "invalid_field",
                f"{field}: {at.isoformat()} is more than {limits.occurred_at_max_age.days} days ago.",
                field,
            )
        if at > now + limits.occurred_at_max_ahead:
            raise _RefusedError(
                "invalid_field",
                f"{field}: {at.isoformat()} lies in the future; check the sender's clock.",
                field,
            )


def _refusal(errors: list[ErrorDetails], model: type[Command] | type[UsageBatch]) -> _RefusedError:
    # A misspelt name is both missing and unknown: "did you mean" helps more than "is missing".
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    place, loc = _place(first["loc"])
    # Field, or field and metadata key; what pydantic adds behind names the branch of a union.
    field = ".".join(_shown(str(part)) for part in (*place, *loc[:2])) or None
    match first["type"]:
        case "missing":
            return _RefusedError("missing_field", f"The field {field!r} is missing.", field)
        case "extra_forbidden":
            return _RefusedError(
                "unknown_field",
                f"The field {field!r} is not known; {_nearest(str(loc[0]), _model_at(first['loc'], model))}",
                field,
            )
        case _:
            text = _way_out(first, loc)
            return _RefusedError("invalid_field", f"{field}: {text}" if field else text, field)


def _place(loc: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """Where in the message, and the field there; pydantic says the item's type between them."""
    match loc:
        case ("items", int(index), str(), *rest) if rest:
            return ("items", index), tuple(rest)
        case ("items", int(index), *_):
            return ("items", index), ()
    return (), loc


def _model_at(
    loc: tuple[int | str, ...], model: type[Command] | type[UsageBatch]
) -> type[Command] | type[UsageBatch]:
    match loc:
        case ("items", int(), str(name), *_):
            return MESSAGE_TYPES[name]
    return model


def _way_out(error: ErrorDetails, loc: tuple[int | str, ...]) -> str:
    match error["type"], loc:
        case "string_type", ("metadata", _, *_):
            return "must be a string, a whole number of 64 bits, true, false or null"
        case "string_pattern_mismatch", ("currency",):
            return "must be three capital letters (ISO 4217), such as USD"
        case "string_unicode", ():
            return "The name of a field holds half of a surrogate pair; send valid Unicode"
        case kind, _:
            return _WAYS_OUT.get(kind) or error["msg"].removeprefix("Value error, ")


_ITEM_TYPES = ", ".join(sorted(type_of(model) for model in (DeductUsage, FreeUpload, RecordUsage)))

#: What pydantic says in its own words, said in a producer's.
_WAYS_OUT = {
    "int_type": "must be a whole number, without quotes, fraction or exponent",
    "int_from_float": "must be a whole number, without quotes, fraction or exponent",
    "greater_than": "must be 1 or more",
    "string_pattern_mismatch": "holds characters that are not taken (control or invisible characters, "
    "white space at either end)",
    "string_unicode": "holds half of a surrogate pair; send valid Unicode",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "dict_type": "must be an object",
    "model_attributes_type": "must be an object",
    "tuple_type": "must be an array of usage commands",
    "too_short": "must not be empty",
    "too_long": f"holds too many; at most {BATCH_MAX_ITEMS} items are taken",
    "union_tag_not_found": f"has no type; an item is one of {_ITEM_TYPES}",
    "union_tag_invalid": f"has a type that no item may have; it is one of {_ITEM_TYPES}",
    "bool_type": "must be true or false",
}


def _nearest(field: str | None, model: type[Command] | type[UsageBatch]) -> str:
    names = [info.alias or name for name, info in model.model_fields.items()]
    close = difflib.get_close_matches(field or "", names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(names))}."


def _known_types() -> str:
    return f"known are {', '.join(sorted(MESSAGE_TYPES))}."


_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def _identities(data: Any) -> dict[str, str]:
    if not isinstance(data, dict):
        return {}
    names = {"type": "type", "reference_id": "referenceId", "user_id": "userId"}
    return {key: value for key, name in names.items() if (value := _identifier(data.get(name))) is not None}


def _identifier(value: Any) -> str | None:
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError:
        return None


def _shown(value: Any) -> str:
    """At most 80 printable characters of what a producer sent, fit for logs and headers."""
    return str(value)[:80].encode("unicode_escape").decode("ascii")


def _json_kind(value: Any) -> str:
    kinds = {
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return kinds[type(value)]
