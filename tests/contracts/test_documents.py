"""AsyncAPI and OpenAPI documents: taken by their parsers, and true of the topology and the routes."""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from schemas import MESSAGE_TYPES, QUERY_TYPES, DeadLetterReason, ProblemCode
from schemas.http import (
    DESCRIPTION_PATH,
    PROBLEM_TYPE,
    ROUTES,
    STATUS_OF,
    STATUS_OF_REQUEST,
    RequestCode,
    TokenScope,
)
from tests.support.fakes import delivery
from tests.support.node import run_script
from worker.broker import BILLING
from worker.contract.asyncapi import asyncapi
from worker.contract.bundle import KINDS
from worker.contract.openapi import openapi
from worker.messages.dead_letters import Failure
from worker.messages.outgoing import OutgoingDeadLetter
from worker.messages.policy import Policy
from worker.messages.replies import Replies
from worker.queries.reader import answer_to
from worker.queries.service import problem

#: The parser asks for AsyncAPI's newest minor version, whatever it is.
REMARKS = {"asyncapi-latest-version"}


def resolved(document: dict[str, Any], node: Any) -> Any:
    """Return what a reference of the document leads to."""
    while "$ref" in node:
        target: Any = document
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def test_official_parser_takes_the_asyncapi_document() -> None:
    found = run_script("asyncapi.mjs", asyncapi())
    assert [one for one in found["diagnostics"] if one["code"] not in REMARKS] == []
    assert {type_ for kind in KINDS for type_ in kind.definitions} <= set(found["messages"])


def test_asyncapi_has_the_topology() -> None:
    channels = asyncapi()["channels"]
    bindings = [channel["bindings"]["amqp"] for channel in channels.values() if "bindings" in channel]
    exchanges = {one["exchange"]["name"]: one["exchange"] for one in bindings if one["is"] == "routingKey"}
    queues = {one["queue"]["name"] for one in bindings if one["is"] == "queue"}
    assert tuple(exchanges) == BILLING.exchanges
    assert {one["type"] for one in exchanges.values()} == {"topic"}
    assert queues == {queue.name for queue in BILLING.queues}
    for queue in BILLING.queues:
        channel = channels[f"queue.{queue.name}"]
        assert channel["x-arguments"] == queue.arguments
        assert channel.get("x-routing-keys", []) == list(queue.routing_keys)
        assert channel["x-policy"] in [policy for _, policy in BILLING.policies().values()]


def test_asyncapi_leads_every_command_to_its_queue() -> None:
    channels = asyncapi()["channels"]
    assert set(channels[BILLING.exchange]["messages"]) >= MESSAGE_TYPES.keys()
    for type_ in MESSAGE_TYPES:
        assert type_ in channels[f"queue.{BILLING.queue_of(type_).name}"]["messages"]


def test_asyncapi_leads_every_query_to_the_readers() -> None:
    channels = asyncapi()["channels"]
    assert set(channels[f"queue.{BILLING.queries.name}"]["messages"]) == QUERY_TYPES.keys()
    assert set(channels[BILLING.exchange]["messages"]) >= QUERY_TYPES.keys()


def test_asyncapi_says_where_the_reply_goes() -> None:
    document = asyncapi()
    operation = document["operations"][f"receive.{BILLING.exchange}.commands"]
    assert operation["reply"]["address"]["location"] == "$message.header#/replyTo"
    assert resolved(document, operation["reply"]["channel"])["address"] is None
    (reply,) = operation["reply"]["messages"]
    message = resolved(document, reply)
    assert message["name"] == "billing.reply"
    assert resolved(document, message["correlationId"])["location"] == "$message.header#/correlationId"


def test_asyncapi_has_the_types_of_replies_and_answers() -> None:
    messages = asyncapi()["components"]["messages"]
    asked = delivery({"type": "usage.deduct"}, reply_to="amq.rabbitmq.reply-to.g1", correlation_id="c")
    now = datetime(2026, 11, 26, tzinfo=UTC)
    refused = Replies(Policy()).for_failure(asked, Failure(DeadLetterReason.NOT_JSON, "no"), 1, now)
    (reply,) = [one for one in refused if not isinstance(one, OutgoingDeadLetter)]
    assert reply.properties["type"] == messages["billing.reply"]["bindings"]["amqp"]["messageType"]
    answer = answer_to(asked, problem(ProblemCode.MALFORMED, "no", now), Policy())
    assert answer is not None
    assert answer.properties["type"] == messages["answer.problem"]["bindings"]["amqp"]["messageType"]


def test_validator_takes_the_openapi_document() -> None:
    document: Any = openapi()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_openapi_has_the_routes() -> None:
    paths = openapi()["paths"]
    assert set(paths) == {*ROUTES, DESCRIPTION_PATH}
    for path, route in ROUTES.items():
        (operation,) = paths[path].values()
        fields = {info.alias or name for name, info in route.query.model_fields.items()}
        given = {one["name"]: one for one in operation["parameters"] if one["in"] == "query"}
        assert given.keys() == fields - {"type"}
        required = {name for name, info in route.query.model_fields.items() if info.is_required()}
        assert sum(one["required"] for one in given.values()) == len(required)
        assert operation["security"] == [{"bearer": [route.scope.value]}]


def test_stats_need_a_scope_of_their_own() -> None:
    scopes = {path: route.scope for path, route in ROUTES.items()}
    assert scopes.pop("/v1/stats") is TokenScope.STATS
    assert set(scopes.values()) == {TokenScope.ACCOUNTS}


def test_every_problem_is_a_response() -> None:
    document = openapi()
    for route in ROUTES:
        responses = document["paths"][route]["get"]["responses"]
        assert {"200", "304", "400", "401", "403", "404", "409", "429", "500", "503"} == responses.keys()
        for code in ProblemCode:
            response = resolved(document, responses[str(STATUS_OF[code])])
            assert f"`{code.value}`" in response["description"]
            schema = resolved(document, response["content"][PROBLEM_TYPE]["schema"])
            assert "code" in schema["required"]


def test_every_code_of_the_http_door_is_described() -> None:
    document = openapi()
    choices = document["components"]["schemas"]["Problem"]["properties"]["code"]["anyOf"]
    described = {code for one in choices for code in resolved(document, one).get("enum", ())}
    assert described == {*ProblemCode, *RequestCode}
    for code, status in (*STATUS_OF.items(), *STATUS_OF_REQUEST.items()):
        response = document["components"]["responses"][HTTPStatus(status).phrase.replace(" ", "")]
        assert f"`{code.value}`" in response["description"]


def test_documents_are_json() -> None:
    for document in (asyncapi(), openapi()):
        assert json.loads(json.dumps(document)) == document
