"""Queries over a real RabbitMQ: who is answered, where, and what becomes of a query that can't be."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from schemas import BonusCredit, DeductUsage, OpenAccount
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, vhost_of
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.processes import run_reader

QUERIES = BILLING.queries.name
BALANCE = {"type": "query.balance", "userId": "ann"}


@pytest.fixture
def ann(application: Application) -> None:
    """An account with 10,000 tokens, of which 30 are used."""
    applied(
        application.engine,
        application.catalog,
        OpenAccount(reference_id="open", user_id="ann", tier="free"),
        BonusCredit(reference_id="bonus", user_id="ann", tokens=500),
        DeductUsage(reference_id="use", user_id="ann", tokens=30),
    )


@pytest.fixture
def reader(application: Application) -> Iterator[Application]:
    """A reader that runs in a thread."""
    with running(application, run_reader):
        yield application


@pytest.mark.usefixtures("ann", "reader")
def test_every_query_has_its_answer_in_the_callers_queue(rabbit: RabbitClient) -> None:
    asked: dict[str, dict[str, Any]] = {
        "answer.balance": BALANCE,
        "answer.afford": {"type": "query.afford", "userId": "ann", "tokens": 5},
        "answer.history": {"type": "query.history", "userId": "ann"},
        "answer.usage": {"type": "query.usage", "userId": "ann"},
        "answer.stats": {"type": "query.stats"},
        "answer.operation": {"type": "query.operation", "referenceId": "use"},
        "answer.catalog": {"type": "query.catalog"},
    }
    correlations = {rabbit.publish(query): type_ for type_, query in asked.items()}
    answers = rabbit.replies(correlations)
    assert {key: answer["type"] for key, (answer,) in answers.items()} == correlations
    balance = next(answer for (answer,) in answers.values() if answer["type"] == "answer.balance")
    assert (balance["balance"], balance["sequence"], balance["schemaVersion"]) == (10_470, 3, 2)
    operation = next(answer for (answer,) in answers.values() if answer["type"] == "answer.operation")
    assert (operation["reply"]["code"], operation["reply"]["duplicate"]) == ("tokens_deducted", True)


@pytest.mark.usefixtures("ann", "reader")
def test_answer_is_a_message_of_its_own_kind(rabbit: RabbitClient) -> None:
    correlation = rabbit.publish(BALANCE)
    ((properties, body),) = rabbit.take(rabbit.reply_queue, 1)
    assert (properties.correlation_id, properties.type) == (correlation, "billing.answer")
    assert properties.delivery_mode == 1, "an answer is not worth a disk"
    assert json.loads(body)["type"] == "answer.balance"


@pytest.mark.usefixtures("ann", "reader")
def test_direct_answer_arrives(rabbit: RabbitClient) -> None:
    found: list[bytes] = []
    channel = rabbit.channel
    channel.basic_consume("amq.rabbitmq.reply-to", lambda _c, _m, _p, body: found.append(body), auto_ack=True)
    rabbit.publish(BALANCE, reply_to="amq.rabbitmq.reply-to")
    eventually(lambda: channel.connection.process_data_events(0.05) or found, what="the answer")
    assert json.loads(found[0])["balance"] == 10_470


@pytest.mark.usefixtures("ann", "reader")
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{", "malformed", None),
        (b'{"type":"query.balance"}', "malformed", "userId"),
        (b'{"type":"query.nothing"}', "malformed", "type"),
        (b'{"type":"usage.deduct","referenceId":"r","userId":"ann","tokens":1}', "malformed", "type"),
        (b'{"type":"query.stats"}', "malformed", "type"),
        (b'{"type":"query.balance","userId":"nobody"}', "account_not_found", None),
    ],
)
def test_query_without_an_answer_gets_a_problem_and_is_no_dead_letter(
    rabbit: RabbitClient, body: bytes, code: str, field: str | None
) -> None:
    correlation = rabbit.publish(body, routing_key="query.balance")
    (answer,) = rabbit.replies({correlation})[correlation]
    assert (answer["type"], answer["code"], answer.get("field")) == ("answer.problem", code, field)
    eventually(lambda: rabbit.depth(QUERIES) == 0, what="it is done with")
    assert rabbit.depth(BILLING.dead.name) == 0


@pytest.mark.usefixtures("ann", "reader")
def test_query_without_an_allowed_address_is_dropped(rabbit: RabbitClient) -> None:
    for address in (None, "billing.replies", "billing.usage", "billing.replies.mallory.1"):
        rabbit.publish(BALANCE, reply_to=address)
    assert rabbit.request(BALANCE)["type"] == "answer.balance"
    for queue in (QUERIES, BILLING.replies.name, BILLING.dead.name, "billing.usage"):
        assert rabbit.depth(queue) == 0


@pytest.mark.usefixtures("ann")
def test_sender_rules_hold_for_queries(application: Application, rabbit: RabbitClient) -> None:
    application.settings = application.settings.model_copy(
        update={"senders": {"query.*": ("app",), "query.operation": {rabbit.user: "mine-"}}}
    )
    with running(application, run_reader):
        answer = rabbit.request(BALANCE)
        assert (answer["code"], answer["field"]) == ("not_allowed", "type")
        foreign = rabbit.request({"type": "query.operation", "referenceId": "use"})
        assert (foreign["code"], foreign["field"]) == ("not_allowed", "referenceId")
        own = rabbit.request({"type": "query.operation", "referenceId": "mine-1"})
        assert own["isKnown"] is False


@pytest.mark.usefixtures("ann", "reader")
def test_outage_of_the_database_is_answered_at_once(
    application: Application, rabbit: RabbitClient, postgres_engine: Engine
) -> None:
    assert rabbit.request(BALANCE)["type"] == "answer.balance"
    with postgres_engine.begin() as connection:
        connection.execute(text("ALTER TABLE accounts RENAME TO hidden"))
    assert rabbit.request(BALANCE)["code"] == "unavailable"
    with postgres_engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO accounts"))
    assert rabbit.request(BALANCE)["type"] == "answer.balance"


@pytest.mark.usefixtures("ann")
def test_reader_answers_again_after_its_connections_are_cut(
    application: Application, rabbit: RabbitClient, rabbitmq: RabbitMQServer
) -> None:
    with Proxy(rabbitmq.address.port) as proxy:
        url = application.settings.broker_url.get_secret_value()
        behind = url.replace(f":{rabbitmq.address.port}/", f":{proxy.port}/")
        application.settings = application.settings.model_copy(update={"broker_url": SecretStr(behind)})
        with running(application, run_reader):
            assert rabbit.request(BALANCE)["type"] == "answer.balance"
            proxy.cut()
            assert rabbit.request(BALANCE)["type"] == "answer.balance"


@pytest.mark.usefixtures("ann")
def test_run_answers_queries_beside_its_worker(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    process = workers.start("--readers", "1")
    assert rabbit.request(BALANCE)["balance"] == 10_470
    deduct = {"type": "usage.deduct", "referenceId": "more", "userId": "ann", "tokens": 70}
    assert rabbit.request(deduct)["balanceAfter"] == 10_400
    assert rabbit.request({**BALANCE, "minSequence": 4})["balance"] == 10_400
    code, log = workers.stop(process)
    assert code == 0, log


@pytest.mark.usefixtures("ann")
def test_readers_alone_answer_and_end_with_their_parent(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    assert run_cli(application.settings, "readers", "--readers", "0").returncode == 2
    process = workers.start("--readers", "2", command="readers")
    assert rabbit.request(BALANCE)["balance"] == 10_470
    process.kill()
    eventually(lambda: _consumers(rabbit) == 0, what="both readers end")


def _consumers(rabbit: RabbitClient) -> int:
    return int(rabbit.channel.queue_declare(QUERIES, passive=True).method.consumer_count)


def test_age_and_number_of_waiting_queries_are_bounded_by_policy(
    application: Application, rabbit: RabbitClient, rabbitmq: RabbitMQServer
) -> None:
    name = "billing-queries"
    pattern, definition = BILLING.policies()[name]
    rabbitmq.management.set_policy(
        vhost_of(application.settings),
        name,
        pattern=pattern,
        definition={**definition, "message-ttl": 1},
    )
    for _ in range(5):
        rabbit.publish(BALANCE)
    eventually(lambda: rabbit.depth(QUERIES) == 0, what="they are too old")
    assert rabbit.depth(BILLING.dead.name) == 0
