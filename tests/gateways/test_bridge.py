"""The bridge over RabbitMQ: published and confirmed, or sent again by the gateway."""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateways.conftest import BridgeDoor, door_on, event_of
from tests.gateways.replay import all_cases
from tests.gateways.signing import NOW, SECRET, stripe_header
from tests.support.fakes import FakeLink
from tests.support.load_scenario import through
from tests.support.private_server import free_port
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, user_of
from tests.support.tcp_proxy import Proxy
from worker.broker import Link, Outgoing, PublishResult, open_link
from worker.broker.rabbitmq import connection, publishing
from worker.errors import BrokerUnavailableError

PAYMENTS = "billing.payments"
PAID = event_of("stripe", "intent succeeded")


def test_webhook_becomes_a_persistent_command_with_its_sender(door: BridgeDoor, rabbit: RabbitClient) -> None:
    response = door.post("stripe", PAID)
    assert (response.status_code, response.get_json()) == (
        200,
        {
            "result": "published",
            "commands": [{"type": "payment.succeeded", "referenceId": "stripe:pi_Lamp"}],
        },
    )
    ((properties, body),) = rabbit.take(PAYMENTS, 1)
    assert json.loads(body)["referenceId"] == "stripe:pi_Lamp"
    assert (properties.delivery_mode, properties.user_id, properties.app_id, properties.message_id) == (
        2,
        rabbit.user,
        "billing-bridge",
        "stripe:pi_Lamp",
    )


def test_every_event_of_the_tables_is_answered_with_2xx_or_names_its_fault(door: BridgeDoor) -> None:
    """By the default rules: rows with rules of their own may end in another way."""
    for case in (case for case in all_cases() if not case.rules):
        response = door.post(case.gateway, case.event)
        expected = 422 if case.reason == "malformed" else 200
        assert response.status_code == expected, (case.name, response.text)
        answer = response.get_json()
        assert answer.get("reason", answer.get("code")) == case.reason, case.name


def test_event_that_comes_twice_gives_the_same_bytes_twice(door: BridgeDoor, rabbit: RabbitClient) -> None:
    door.post("stripe", PAID)
    door.post("stripe", PAID)
    (_, first), (_, second) = rabbit.take(PAYMENTS, 2)
    assert first == second


def test_many_webhooks_at_once_are_all_published(door: BridgeDoor, rabbit: RabbitClient) -> None:
    events = [
        {**PAID, "data": {"object": {**PAID["data"]["object"], "id": f"pi_{number}"}}} for number in range(40)
    ]
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda event: door.post("stripe", event).status_code, events))
    assert set(statuses) == {200}
    taken = {json.loads(body)["referenceId"] for _, body in rabbit.take(PAYMENTS, 40)}
    assert taken == {f"stripe:pi_{number}" for number in range(40)}


def test_event_without_a_command_is_answered_logged_and_counted(
    door: BridgeDoor, rabbit: RabbitClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = door.post("stripe", event_of("stripe", "charge refunded, cumulative")).get_json()
    assert (answer["result"], answer["reason"]) == ("ignored", "reported_elsewhere")
    assert "refund.* tell it" in answer["detail"]
    assert "stripe: charge.refunded gives no command (reported_elsewhere)" in caplog.text
    assert door.count("stripe", "charge.refunded", "reported_elsewhere") == 1
    assert rabbit.depth(PAYMENTS) == 0


def test_money_without_a_user_is_a_warning(door: BridgeDoor, caplog: pytest.LogCaptureFixture) -> None:
    assert door.post("stripe", event_of("stripe", "intent of nobody we know")).status_code == 200
    (record,) = [record for record in caplog.records if "no_user" in record.message]
    assert record.levelno == logging.WARNING
    assert "pi_Lamp" in record.message


def test_published_webhooks_are_counted_by_type(door: BridgeDoor) -> None:
    door.post("stripe", PAID)
    door.post("paddle", event_of("paddle", "refund approved"))
    assert door.count("stripe", "payment_intent.succeeded", "published") == 1
    assert door.count("paddle", "adjustment.updated", "published") == 1


def test_type_that_nobody_knows_has_no_label_of_its_own(door: BridgeDoor) -> None:
    assert door.post("stripe", {**PAID, "type": "made.up"}).get_json()["reason"] == "unknown_type"
    assert door.count("stripe", "other", "unknown_type") == 1


def test_wanted_replies_are_those_of_the_configuration(broker_url: str, rabbit: RabbitClient) -> None:
    with door_on(lambda: open_link(broker_url), replies="none") as door:
        door.post("stripe", PAID)
    ((_, body),) = rabbit.take(PAYMENTS, 1)
    assert json.loads(body)["replies"] == "none"


# -- the broker is away -----------------------------------------------------------------------------------


def test_broker_that_is_away_gives_503_and_then_the_webhook_is_taken(
    rabbitmq: RabbitMQServer, broker_url: str, rabbit: RabbitClient
) -> None:
    with (
        Proxy(free_port()) as proxy,
        door_on(lambda: open_link(through(proxy, broker_url)), sent_as=user_of(broker_url)) as door,
    ):
        problem = door.problem("stripe", PAID, 503)
        assert (problem["code"], problem["detail"]) == (
            "unavailable",
            "The broker has not taken the commands of this event; send it again.",
        )
        assert door.app.test_client().get("/readyz").status_code == 503
        assert door.count("stripe", "payment_intent.succeeded", "unavailable") == 1
        proxy.target = rabbitmq.address.port
        assert door.post("stripe", PAID).status_code == 200
        assert door.app.test_client().get("/readyz").status_code == 200
    assert len(rabbit.take(PAYMENTS, 1)) == 1


def test_lost_connection_is_replaced_within_the_request(
    rabbitmq: RabbitMQServer, broker_url: str, rabbit: RabbitClient
) -> None:
    with (
        Proxy(rabbitmq.address.port) as proxy,
        door_on(lambda: open_link(through(proxy, broker_url))) as door,
    ):
        assert door.post("stripe", PAID).status_code == 200
        for end in (proxy.cut, proxy.reset):
            end()
            assert door.post("stripe", PAID).status_code == 200
    assert len(rabbit.take(PAYMENTS, 3)) == 3


def test_confirm_that_does_not_come_gives_503(
    rabbitmq: RabbitMQServer, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", 0.2)
    with Proxy(rabbitmq.address.port) as proxy:
        link = open_link(through(proxy, broker_url))
        with door_on(lambda: link) as door:
            assert door.post("stripe", PAID).status_code == 200
            proxy.hang()
            # The link is closed and opened anew once, through the same proxy.
            monkeypatch.setattr(connection, "_CLOSE_TIMEOUT_S", 0.2)
            monkeypatch.setattr(connection, "_CONNECT_TIMEOUT_S", 0.2)
            assert door.post("stripe", PAID).status_code == 503


class _LosesConfirms:
    """Link that publishes, and is lost before the confirm comes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        """Publish, and be lost."""
        self._link.publish(messages)
        raise BrokerUnavailableError("the connection is lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def test_event_that_was_published_without_a_confirm_is_sent_again_as_the_same_bytes(
    broker_url: str, rabbit: RabbitClient
) -> None:
    links: Iterator[Any] = iter([_LosesConfirms(open_link(broker_url)), open_link(broker_url)])
    with door_on(lambda: next(links)) as door:
        door.problem("stripe", PAID, 503)
        assert door.post("stripe", PAID).status_code == 200
    (_, first), (_, second) = rabbit.take(PAYMENTS, 2)
    assert first == second


def test_command_that_no_queue_takes_gives_503_until_one_does(
    door: BridgeDoor, rabbit: RabbitClient, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    rabbit.channel.queue_delete(PAYMENTS)
    door.problem("stripe", PAID, 503)
    assert "no queue takes payment.succeeded: run `billing-worker topology declare`" in caplog.text
    rabbit.channel.queue_declare(PAYMENTS, durable=True, arguments={"x-queue-type": "quorum"})
    rabbit.channel.queue_bind(PAYMENTS, "billing", "payment.*")
    assert door.post("stripe", PAID).status_code == 200


def test_missing_exchange_gives_503(bare_broker_url: str) -> None:
    with door_on(lambda: open_link(bare_broker_url)) as door:
        door.problem("stripe", PAID, 503)


def test_full_queue_gives_503() -> None:
    link = FakeLink()
    link.refusing.add("payment.succeeded")
    with door_on(lambda: link) as door:
        door.problem("stripe", PAID, 503)
        link.refusing.clear()
        assert door.post("stripe", PAID).status_code == 200


def test_wrong_password_gives_503_and_is_in_the_log(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, at, rest = broker_url.rpartition("@")
    url = f"amqp://nobody:wrong{at}{rest}"
    with door_on(lambda: open_link(url)) as door:
        door.problem("stripe", PAID, 503)
    assert "the broker refuses" in caplog.text


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "signature_missing"),
        ("t=1", "signature_unreadable"),
        (stripe_header(b"other"), "signature_wrong"),
        (stripe_header(json.dumps(PAID).encode(), at=NOW - 3600), "signature_expired"),
    ],
)
def test_unverified_webhook_is_refused_with_the_reason(header: str, code: str) -> None:
    link = FakeLink()
    with door_on(lambda: link) as door:
        problem = door.problem("stripe", PAID, 400, **{"Stripe-Signature": header})
        assert (problem["code"], problem["field"]) == (code, "Stripe-Signature")
        assert SECRET not in json.dumps(problem)
        assert door.count("stripe", "unverified", code) == 1
    assert link.published == []


def test_signature_of_another_gateway_opens_nothing() -> None:
    body = json.dumps(PAID).encode()
    with door_on(FakeLink) as door:
        problem = door.problem("paddle", PAID, 400, **{"Stripe-Signature": stripe_header(body)})
    assert problem["code"] == "signature_missing"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_verified_body_that_is_no_object_is_refused(body: bytes) -> None:
    with door_on(FakeLink) as door:
        problem = door.problem("stripe", body, 400)
    assert problem["code"] == "malformed"


def test_surprising_event_is_refused_with_its_place() -> None:
    event = event_of("stripe", "refund whose amount is text")
    with door_on(FakeLink) as door:
        problem = door.problem("stripe", event, 422)
    assert (problem["code"], problem["detail"]) == (
        "malformed",
        "event.data.object.amount: must be a whole number, is text",
    )


def test_command_that_a_worker_would_refuse_is_not_published() -> None:
    link = FakeLink()
    event = {**PAID, "created": NOW + 10 * 86_400}
    with door_on(lambda: link) as door:
        problem = door.problem("stripe", event, 422)
    assert "a worker would refuse stripe:pi_Lamp: occurredAt" in problem["detail"]
    assert link.published == []


def test_body_that_is_too_long_is_refused() -> None:
    with door_on(FakeLink) as door:
        door.problem("stripe", b" " * (1024 * 1024 + 1), 413)


def test_other_path_names_those_that_are_there() -> None:
    with door_on(FakeLink) as door:
        problem = door.problem("stripe", PAID, 404, path="/webhooks/adyen")
    assert "/webhooks/paddle, /webhooks/stripe" in problem["detail"]


def test_webhook_is_a_post() -> None:
    with door_on(FakeLink) as door:
        response = door.app.test_client().get("/webhooks/stripe")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_fault_of_ours_gives_500_so_that_the_gateway_sends_again() -> None:
    def broken() -> FakeLink:
        raise RuntimeError("a bug")

    with door_on(broken) as door:
        door.problem("stripe", PAID, 500)


# -- health -----------------------------------------------------------------------------------------------


def test_process_is_live_without_a_broker_and_not_ready_while_it_stops() -> None:
    with door_on(FakeLink) as door:
        client = door.app.test_client()
        assert client.get("/healthz").get_json() == {"state": "live"}
        assert client.get("/readyz").get_json() == {"state": "ready"}
        door.stopping[0] = True
        assert client.get("/readyz").get_json() == {"state": "stopping"}
