"""Description of exchanges, queues and messages: ``asyncapi.json`` (AsyncAPI 3.0), from the worker's view.

A channel is an exchange, whose address is the routing key, or a queue. Arguments and policies of queues have
no place in the AMQP binding (0.3.0) and stand beside it, in ``x-arguments`` and ``x-policy``; so do the
exchange and the routing keys of a queue.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from schemas import PARTITIONS, SCHEMA_VERSION, DeadLetter
from schemas.dead_letter import HEADER_PREFIX
from schemas.decoding import BODY_MAX_BYTES
from worker.broker.topology import BILLING, Queue, Topology
from worker.contract.bundle import ANSWER_TYPE, KINDS, REPLY_TYPE, MessageKind, definitions
from worker.contract.openapi import moved
from worker.contract.schema import ref, sent_by_worker, without_null

_BINDING: Final = "0.3.0"
_DEAD_LETTER: Final = "dead.letter"
#: Channel of an address that only the request knows: its ``reply_to``.
_REPLY_ADDRESS: Final = "replyTo"

_OF_KIND: Final = {kind.name: kind for kind in KINDS}
_ASKED: Final = (_OF_KIND["Command"], _OF_KIND["Query"])


def asyncapi(topology: Topology = BILLING) -> dict[str, Any]:
    """Return the document of a topology."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "billing-worker over RabbitMQ",
            "version": str(SCHEMA_VERSION),
            "description": (
                f"Each message is one JSON object of at most {BODY_MAX_BYTES} bytes. Publish with confirms "
                "and `mandatory`, persistent, and never with an expiration. Replies and notices are "
                "delivered at least once: a copy has the same `message_id`."
            ),
        },
        "defaultContentType": "application/json",
        "channels": dict(_channels(topology)),
        "operations": dict(_operations(topology)),
        "components": {
            "messages": dict(_messages()),
            "correlationIds": {
                "request": {
                    "description": "The request's `correlation_id`, else its `message_id`.",
                    "location": "$message.header#/correlationId",
                }
            },
            "schemas": definitions()
            | {"Properties": _PROPERTIES, DeadLetter.__name__: _dead_letter_headers()},
        },
    }
    moved_document: dict[str, Any] = moved(document)
    return moved_document


#: Properties of AMQP under their names in camelCase, as AsyncAPI counts them among the headers.
_PROPERTIES: Final = {
    "description": "Properties of the message (AMQP 0-9-1).",
    "type": "object",
    "properties": {
        "messageId": {"description": "Id of this message; a copy has the same.", "type": "string"},
        "correlationId": {"description": "Names the request that a reply belongs to.", "type": "string"},
        "replyTo": {"description": "Queue of the reply; or `amq.rabbitmq.reply-to`.", "type": "string"},
        "userId": {"description": "User of the broker, for whom the broker vouches.", "type": "string"},
        "appId": {"description": "Name of the sending program.", "type": "string"},
    },
}


# -- channels ---------------------------------------------------------------------------------------------


def _channels(topology: Topology) -> Iterator[tuple[str, Any]]:
    for exchange in topology.exchanges:
        types = sorted(_types_of_exchange(exchange, topology))
        yield (
            exchange,
            {
                "address": "{type}",
                "description": f"Exchange `{exchange}`; {_key_text(exchange, topology)}.",
                "parameters": {"type": {"enum": types, "description": "Type of the message."}},
                "messages": _refs_to_messages(types),
                "bindings": {"amqp": _exchange_binding(exchange)},
            },
        )
    for queue in topology.queues:
        yield (
            _queue_channel(queue),
            {
                "address": queue.name,
                "description": f"Queue `{queue.name}`.",
                "messages": _refs_to_messages(_types_of_queue(queue, topology)),
                "bindings": {"amqp": _queue_binding(queue)},
                "x-arguments": dict(queue.arguments),
                "x-policy": dict(_policy_of(queue, topology)),
                **_binding_to_exchange(queue, topology),
                **_partitions_of(queue, topology),
            },
        )
    yield (
        _REPLY_ADDRESS,
        {
            "address": None,
            "description": f"Queue that a request names in `reply_to`; by default `{topology.replies.name}`.",
            "messages": _refs_to_messages([REPLY_TYPE, *_OF_KIND["Answer"].definitions]),
        },
    )


def _key_text(exchange: str, topology: Topology) -> str:
    """Return the text about routing keys; queries and notices have no partitions."""
    text = "the routing key is the type of the message"
    if exchange not in topology.command_exchanges:
        return text
    return f"{text}, with the partition of the command's user behind it where queues have any"


def _partitions_of(queue: Queue, topology: Topology) -> dict[str, Any]:
    """Return the form of the queues that a lane has beside its own where it has partitions."""
    if queue not in topology.work:
        return {}
    keys = [f"{key}.{{partition}}" for key in queue.routing_keys]
    address = f"{queue.name}.{{partition}}"
    return {"x-partitions": {"numbers": list(PARTITIONS), "address": address, "x-routing-keys": keys}}


def _policy_of(queue: Queue, topology: Topology) -> Mapping[str, str | int]:
    """Return the policy that an operator should set for a queue."""
    policies = topology.policies().values()
    return next((policy for pattern, policy in policies if re.match(pattern, queue.name)), {})


def _queue_channel(queue: Queue) -> str:
    return f"queue.{queue.name}"


def _exchange_of(queue: Queue, topology: Topology) -> str:
    return queue.exchange or topology.exchange


def _binding_to_exchange(queue: Queue, topology: Topology) -> dict[str, Any]:
    if not queue.routing_keys:
        return {}
    return {"x-exchange": _exchange_of(queue, topology), "x-routing-keys": list(queue.routing_keys)}


def _types_of_queue(queue: Queue, topology: Topology) -> list[str]:
    if queue == topology.replies:
        return [REPLY_TYPE]
    if queue == topology.dead:
        return [_DEAD_LETTER]
    asked = [type_ for kind in _ASKED for type_ in kind.definitions]
    return [type_ for type_ in asked if any(fnmatchcase(type_, key) for key in queue.routing_keys)]


def _types_of_exchange(exchange: str, topology: Topology) -> Iterable[str]:
    if exchange == topology.events:
        return _OF_KIND["Notice"].definitions
    queues = [queue for queue in topology.queues if queue.routing_keys]
    bound = [queue for queue in queues if _exchange_of(queue, topology) == exchange]
    return {type_ for queue in bound for type_ in _types_of_queue(queue, topology)}


def _refs_to_messages(types: Iterable[str]) -> dict[str, Any]:
    return {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in types}


def _exchange_binding(name: str) -> dict[str, Any]:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}


def _queue_binding(queue: Queue) -> dict[str, Any]:
    bound = {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}
    return {"is": "queue", "queue": bound, "bindingVersion": _BINDING}


# -- operations -------------------------------------------------------------------------------------------


def _operations(topology: Topology) -> Iterator[tuple[str, Any]]:
    for exchange in topology.exchanges:
        types = sorted(_types_of_exchange(exchange, topology))
        if exchange == topology.events:
            yield f"send.{exchange}", _operation("send", exchange, types, "Notifies listeners.")
            continue
        for kind in _ASKED:
            asked = [type_ for type_ in types if type_ in kind.definitions]
            if asked:
                yield f"receive.{exchange}.{kind.folder}", _received(exchange, asked, kind)
    replies, dead = _queue_channel(topology.replies), _queue_channel(topology.dead)
    yield "send.replies", _operation("send", replies, [REPLY_TYPE], "Replies where a command names no queue.")
    yield "send.dead", _operation("send", dead, [_DEAD_LETTER], "Keeps what can't be applied.")


def _operation(
    action: str, channel: str, types: Iterable[str], summary: str, *, persistent: bool = True
) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": _refs_to_messages_of(channel, types),
        "bindings": {
            "amqp": {
                "deliveryMode": 2 if persistent else 1,
                "mandatory": True,
                "ack": True,
                "bindingVersion": _BINDING,
            }
        },
    }


def _received(exchange: str, types: Iterable[str], kind: MessageKind) -> dict[str, Any]:
    is_command = kind.name == "Command"
    answers = [REPLY_TYPE] if is_command else list(_OF_KIND["Answer"].definitions)
    summary = "Applies commands and replies." if is_command else "Answers queries."
    return {
        **_operation("receive", exchange, types, summary, persistent=is_command),
        "reply": {
            "address": {
                "description": "The `reply_to` of the request.",
                "location": "$message.header#/replyTo",
            },
            "channel": {"$ref": f"#/channels/{_REPLY_ADDRESS}"},
            "messages": _refs_to_messages_of(_REPLY_ADDRESS, answers),
        },
    }


def _refs_to_messages_of(channel: str, types: Iterable[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{channel}/messages/{type_}"} for type_ in types]


# -- messages ---------------------------------------------------------------------------------------------


def _messages() -> Iterator[tuple[str, Any]]:
    for kind in KINDS:
        for type_, name in kind.definitions.items():
            description = definitions()[name]["description"]
            sent_as = {"Reply": REPLY_TYPE, "Answer": ANSWER_TYPE}.get(kind.name, type_)
            yield (
                type_,
                {
                    **_message(type_, ref(name), description, ref("Properties")),
                    "bindings": {"amqp": {"messageType": sent_as, "bindingVersion": _BINDING}},
                },
            )
    about = "Message that could not be applied: the original's bytes, and the reason in headers."
    yield _DEAD_LETTER, _message(_DEAD_LETTER, {}, about, ref(DeadLetter.__name__))


def _message(type_: str, payload: Any, description: str, headers: Any) -> dict[str, Any]:
    return {
        "name": type_,
        "title": type_,
        "summary": description.partition("\n\n")[0],
        "contentType": "application/json",
        "headers": headers,
        "correlationId": {"$ref": "#/components/correlationIds/request"},
        "payload": payload,
    }


def _dead_letter_headers() -> Mapping[str, Any]:
    schema = sent_by_worker([DeadLetter])[DeadLetter.__name__]

    def header(name: str) -> str:
        return HEADER_PREFIX + name.replace("_", "-")

    return {
        **schema,
        "properties": {header(name): without_null(value) for name, value in schema["properties"].items()},
        "required": [header(name) for name in schema["required"]],
    }
