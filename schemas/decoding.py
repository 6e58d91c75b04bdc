"""Decoding of a message's bytes to a command or a query, or to the reason why there is none.

Decoding never raises: whatever a producer sends, its neighbours in the batch go on.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from schemas.base import BaseMessage
from schemas.commands import COMMAND_TYPES, MESSAGE_TYPES, Command
from schemas.dead_letter_reason import DeadLetterReason
from schemas.fields import IDENTIFIER_MAX, Identifier, WantedReplies, is_plain
from schemas.identifiers import ID_RULE, IdRule
from schemas.imports import ImportAccount
from schemas.malformed import Malformed, MalformedError
from schemas.parsing import GivenTwice, parse, shown
from schemas.queries import QUERY_TYPES, Query
from schemas.refusals import NAMES, Refusals, refused_item
from schemas.usage import (
    BATCH_MAX_ITEMS,
    ITEM_TYPES,
    ONE_REPLY_TEXT,
    BatchEnvelope,
    BatchItem,
    UsageBatch,
)

#: Largest message body, in bytes.
BODY_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a message. ``max_quantity`` counts tokens, bytes or minor units of money."""

    body_max_bytes: int = BODY_MAX_BYTES
    max_quantity: int = 10**15  # well below 2^53, above which JavaScript loses units
    occurred_at_max_age: timedelta = timedelta(
        days=3660
    )  # a dead letter replayed years later is still welcome
    occurred_at_max_ahead: timedelta = timedelta(hours=24)
    ids: IdRule | None = ID_RULE  #: of new ids; None takes those of any version


_Model = TypeVar("_Model", bound=BaseMessage)

#: No type has more fields. A message with more is not validated: that makes an error for each unknown one.
_FIELDS_MAX = max(map(len, NAMES.values()))


def decode(body: bytes, *, now: datetime, limits: Limits) -> Command | UsageBatch | Malformed:
    """Return the command or the command batch in ``body``, or the reason why it holds none.

    Times are compared with ``now``. A batch whose items are malformed is a batch: see
    ``UsageBatch.malformed``.
    """
    data: Any = None
    try:
        data = parse(body, limits.body_max_bytes, limits.max_quantity)
        model = _model_of(data)
        if model is None:
            return _batch(data, now, limits, _rule_for(body, limits))
        command = _validated(data, model)
        if limits.ids is not None and not limits.ids.is_kept_by_all_of(body):
            _refuse_id(command, limits.ids)
        _refuse_excess(command, now, limits)
    except MalformedError as refused:
        return _malformed(refused, data)
    return command


def decode_query(body: bytes, *, limits: Limits) -> Query | Malformed:
    """Return the query in ``body``, or the reason why it holds none."""
    data: Any = None
    try:
        data = parse(body, limits.body_max_bytes, limits.max_quantity)
        return _validated(data, QUERY_TYPES[_known_type(data, QUERY_TYPES)])
    except MalformedError as refused:
        return _malformed(refused, data)


def first_malformed(decoded: Command | UsageBatch | Malformed | None) -> Malformed | None:
    """Return the refusal of ``decoded``, or of its first malformed item; None where all of it is good."""
    if type(decoded) is UsageBatch:
        return next(iter(decoded.malformed.values()), None)
    return decoded if isinstance(decoded, Malformed) else None


def _model_of(data: dict[str, Any]) -> type[Command] | None:
    """Return the model of a command by its type; None for a batch."""
    return COMMAND_TYPES.get(_known_type(data, MESSAGE_TYPES))


def _known_type(data: dict[str, Any], known: Collection[str]) -> str:
    """Return the type of a message, which is one of ``known``. Raises MalformedError."""
    if "type" not in data:
        reason, text = DeadLetterReason.MISSING_FIELD, "The field 'type' is missing"
    else:
        name = data["type"]
        if isinstance(name, str) and name in known:
            return name
        reason, text = DeadLetterReason.UNKNOWN_TYPE, f"The type {shown(name)!r} is not known"
    raise MalformedError(reason, f"{text}; known are {', '.join(sorted(known))}.", "type")


def _validated(
    data: dict[str, Any], model: type[_Model], refusals: Refusals | None = None, index: int | None = None
) -> _Model:
    if len(data) > _FIELDS_MAX or (refusals is not None and refusals.foresees(data)):
        raise (refusals or Refusals()).of(data, model, None, _place(index))
    try:
        return model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise (refusals or Refusals()).of(data, model, error, _place(index)) from error


def _place(index: int | None) -> str:
    """Return the text before the name of a field: empty, or the item that it is a field of."""
    return "" if index is None else f"items.{index}."


def _rule_for(body: bytes, limits: Limits) -> IdRule | None:
    """Return the rule of ids that the commands of ``body`` must be held against; None where all keep it."""
    return None if limits.ids is None or limits.ids.is_kept_by_all_of(body) else limits.ids


def _refuse_id(message: BaseMessage, ids: IdRule, index: int | None = None) -> None:
    if (fault := ids.fault_in(message)) is not None:
        field = _place(index) + fault[0]
        raise MalformedError(DeadLetterReason.INVALID_ID, f"{field}: {fault[1]}", field)


def _batch(data: dict[str, Any], now: datetime, limits: Limits, ids: IdRule | None) -> UsageBatch:
    """Return the batch, each item judged by itself; only a fault outside the items refuses it whole."""
    refusals = Refusals()
    if not data.keys() <= NAMES[UsageBatch]:
        raise refusals.of(data, UsageBatch, None, "")
    alone = {name: value for name, value in data.items() if name != "items"}
    envelope = _validated(alone, BatchEnvelope, refusals=refusals)
    if ids is not None:
        _refuse_id(envelope, ids)
    items: list[BatchItem] = []
    malformed: dict[int, Malformed] = {}
    for index, item in enumerate(_items(data, envelope.user_id)):
        try:
            command = _validated(item, _model_of_item(item, index), refusals, index)
            if ids is not None:
                _refuse_id(command, ids, index)
            _refuse_replies(command, index)
            _refuse_excess(command, now, limits, index)
        except MalformedError as refused:
            malformed[index] = _malformed(refused, item)
        else:
            items.append(command)
    return UsageBatch.received(envelope, items, malformed)


def _items(data: dict[str, Any], user_id: str | None) -> list[Any]:
    """Return the items of the message, each with the batch's user where it names none."""
    if "items" not in data:
        raise MalformedError(DeadLetterReason.MISSING_FIELD, "The field 'items' is missing.", "items")
    items = data["items"]
    if not isinstance(items, list):
        text = "must be an array of usage commands"
    elif not items:
        text = "must not be empty"
    elif len(items) > BATCH_MAX_ITEMS:
        text = f"holds too many; at most {BATCH_MAX_ITEMS} items are taken"
    else:
        if user_id is not None:
            for item in items:
                if isinstance(item, dict):
                    item.setdefault("userId", user_id)
        return items
    raise MalformedError(DeadLetterReason.INVALID_FIELD, f"items: {text}", "items")


def _model_of_item(item: Any, index: int) -> type[BatchItem]:
    type_ = item.get("type") if isinstance(item, dict) else None
    model = ITEM_TYPES.get(type_) if isinstance(type_, str) else None
    if model is None:
        raise refused_item(item, _place(index))
    return model


def _refuse_replies(item: BatchItem, index: int) -> None:
    if item.replies is not None:
        field = f"{_place(index)}replies"
        raise MalformedError(DeadLetterReason.INVALID_FIELD, f"{field}: {ONE_REPLY_TEXT}", field)


def _refuse_excess(command: Command, now: datetime, limits: Limits, index: int | None = None) -> None:
    if isinstance(command, ImportAccount) and command.as_of > now + limits.occurred_at_max_ahead:
        raise MalformedError(
            DeadLetterReason.INVALID_FIELD,
            f"asOf: {command.as_of.isoformat()} lies in the future; check the sender's clock.",
            "asOf",
        )
    if (excessive := _excessive(command, limits.max_quantity)) is not None:
        field = _place(index) + excessive
        raise MalformedError(
            DeadLetterReason.INVALID_FIELD, f"{field}: at most {limits.max_quantity} is taken.", field
        )
    if (at := command.occurred_at) is not None:
        field = _place(index) + "occurredAt"
        if at < now - limits.occurred_at_max_age:
            raise MalformedError(
                DeadLetterReason.INVALID_FIELD,
                f"{field}: {at.isoformat()} is more than {limits.occurred_at_max_age.days} days ago.",
                field,
            )
        if at > now + limits.occurred_at_max_ahead:
            raise MalformedError(
                DeadLetterReason.INVALID_FIELD,
                f"{field}: {at.isoformat()} lies in the future; check the sender's clock.",
                field,
            )


def _excessive(message: BaseMessage, most: int) -> str | None:
    """Return the field of the first quantity above ``most``, by its name on the wire; None where none is."""
    for name in message.QUANTITIES:
        value = getattr(message, name)
        if isinstance(value, int):
            if abs(value) > most:
                return to_camel(name)
        elif value is not None and (within := _excessive(value, most)) is not None:
            return f"{to_camel(name)}.{within}"
    return None


_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def _malformed(refused: MalformedError, data: Any) -> Malformed:
    """Return the refusal with the identities of ``data``, as far as they can be read."""
    if not isinstance(data, dict | GivenTwice):
        return Malformed(refused.reason, refused.message, refused.field)
    return Malformed(
        refused.reason,
        refused.message,
        refused.field,
        _identifier(data.get("type")),
        _identifier(data.get("referenceId")),
        _identifier(data.get("userId")),
        _wanted_replies(data.get("replies")),
    )


def _wanted_replies(value: Any) -> WantedReplies | None:
    return value if value in _WANTED_REPLIES else None


_WANTED_REPLIES = get_args(WantedReplies)


def _identifier(value: Any) -> str | None:
    if isinstance(value, str) and is_plain(value, IDENTIFIER_MAX):
        return value
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError:
        return None
