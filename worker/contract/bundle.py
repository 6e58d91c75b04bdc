"""The bundle ``messages.schema.json``, and the file of each message by itself."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Final, get_args

from pydantic.alias_generators import to_pascal

from schemas import (
    MESSAGE_TYPES,
    QUERY_TYPES,
    SCHEMA_VERSION,
    DeadLetterReason,
    Notice,
    NoticeType,
    QueryAnswer,
    Reply,
    UsageBatch,
)
from schemas.notices import UNNAMED_NOTICES
from schemas.usage import ITEM_TYPES
from worker.contract.schema import Schema, enum_of, ref, sent_by_worker, sent_to_worker

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: Properties ``type`` of every reply and answer. The body of a reply has the ``type`` of its command.
REPLY_TYPE, ANSWER_TYPE = "billing.reply", "billing.answer"

_COMMENT: Final = (
    "Written by `make contract` from the models. "
    "Senders: null is as good as absent where it is taken. Numbers are whole; the worker also refuses 1.0 "
    "and 1e3, which JSON Schema calls integers. Characters that Unicode has not assigned yet pass here and "
    "not there. Readers: pass over fields and codes that you don't know."
)


@dataclass(frozen=True, slots=True)
class MessageKind:
    """Messages of one kind: their folder, and the definition of each by its ``type``."""

    name: str
    folder: str
    definitions: Mapping[str, str]


#: Every message of the contract.
KINDS: Final = (
    MessageKind("Command", "commands", {type_: model.__name__ for type_, model in MESSAGE_TYPES.items()}),
    MessageKind("Query", "queries", {type_: model.__name__ for type_, model in QUERY_TYPES.items()}),
    MessageKind("Reply", "replies", {REPLY_TYPE: Reply.__name__}),
    MessageKind(
        "Answer", "answers", {one.model_fields["type"].default: one.__name__ for one in get_args(QueryAnswer)}
    ),
    MessageKind(
        "Notice", "notices", {type_: to_pascal(type_.replace(".", "_")) for type_ in get_args(NoticeType)}
    ),
)


def bundle() -> Schema:
    """Return the schema of all messages; its root takes any one of them."""
    unions = {kind.name: _union(kind) for kind in KINDS if kind.name not in definitions()}
    return {
        "$schema": DIALECT,
        "$id": _id("messages"),
        "title": "Messages of billing-worker",
        "$comment": _COMMENT,
        "anyOf": [ref(kind.name) for kind in KINDS],
        "$defs": unions | definitions(),
    }


def message_schema(kind: MessageKind, type_: str) -> Schema:
    """Return the schema of one message, complete in itself."""
    schema = definitions()[kind.definitions[type_]]
    head = {
        "$schema": DIALECT,
        "$id": _id(kind.folder, type_),
        "title": kind.definitions[type_],
        "$comment": _COMMENT,
    }
    used = {name: definitions()[name] for name in sorted(reachable(schema))}
    return {**head, **schema, "$defs": used} if used else {**head, **schema}


@cache
def definitions() -> dict[str, Schema]:
    """Return every definition of the contract by name."""
    sent = [*MESSAGE_TYPES.values(), *QUERY_TYPES.values()]
    received = [Reply, Notice, *get_args(QueryAnswer)]
    found = {**sent_to_worker(sent), **sent_by_worker(received)}
    found[DeadLetterReason.__name__] = enum_of(DeadLetterReason)
    _add_items(found)
    notice = found.pop(Notice.__name__)
    for kind in KINDS:
        if kind.name == Notice.__name__:
            found |= {name: _of_type(notice, type_) for type_, name in kind.definitions.items()}
    return found


def _add_items(found: dict[str, Schema]) -> None:
    """Let the items of a batch go without the user that the batch names."""
    batch = json.dumps(found[UsageBatch.__name__])
    for model in ITEM_TYPES.values():
        name = f"{model.__name__}Item"
        item = found[name] = deepcopy(found[model.__name__])
        item["required"].remove("userId")
        batch = batch.replace(f'/{model.__name__}"', f'/{name}"')
    found[UsageBatch.__name__] = json.loads(batch)


def _of_type(notice: Schema, type_: str) -> Schema:
    """Return the schema of notices of a type; nearly all name their user."""
    found = _with_type(notice, type_)
    if type_ in UNNAMED_NOTICES:
        return found
    required = {*found["required"], "userId"}
    return {**found, "required": [name for name in found["properties"] if name in required]}


def _with_type(notice: Schema, type_: str) -> Schema:
    properties = notice["properties"] | {"type": {"type": "string", "const": type_}}
    return {**notice, "properties": properties}


def _union(kind: MessageKind) -> Schema:
    return {"oneOf": [ref(name) for name in kind.definitions.values()]}


def reachable(schema: Schema) -> set[str]:
    """Return the names of the definitions that a schema refers to, however indirectly."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        names = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(waiting.pop()))) - found
        found |= names
        waiting += [definitions()[name] for name in names]
    return found


def _id(*parts: str) -> str:
    return ":".join(["urn:billing-worker:contract", str(SCHEMA_VERSION), *parts])
