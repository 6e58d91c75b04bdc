"""Client for producers in Python: it publishes with confirms and gets replies from a real worker."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pika
import pytest

from schemas import (
    BalanceAnswer,
    BonusCredit,
    DeductUsage,
    FreezeAccount,
    Message,
    OpenAccount,
    PaymentSucceeded,
    Query,
    QueryBalance,
    QueryCatalog,
    QueryProblem,
    RecordUsage,
    RefundFailed,
    Reply,
    ReserveUsage,
    SettleUsage,
    UsageBatch,
)
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.rabbitmq_management import BrokerConnection
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.client import BillingClient, _Sending
from worker.errors import (
    BillingError,
    BrokerUnavailableError,
    ConfigurationError,
    NoReplyError,
    TransientError,
)
from worker.processes import run_reader

ROOT = Path(__file__).parents[1]
OPEN = OpenAccount(reference_id="open-ann", user_id="ann", tier="free")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEDUCT = DeductUsage(reference_id="d-1", user_id="ann", tokens=400)


@pytest.fixture
def client(broker_url: str) -> Iterator[BillingClient]:
    with BillingClient(broker_url) as client:
        yield client


def answer(
    rabbit: RabbitClient, *, queue: str = "billing.usage", body: bytes = b"", **properties: str
) -> str:
    """Take a command as a worker does, send ``body`` to its reply queue, and return that queue's name."""
    ((request, _),) = rabbit.take(queue, 1)
    own = {"correlation_id": request.correlation_id} | properties
    rabbit.channel.basic_publish("", request.reply_to, body, pika.BasicProperties(**own))
    return str(request.reply_to)


def test_query_gets_the_answer_of_a_reader(
    client: BillingClient, application: Application, rabbit: RabbitClient
) -> None:
    applied(application.engine, application.catalog, OPEN)
    with running(application, run_reader):
        answer = client.ask(QueryBalance(user_id="ann"))
        assert isinstance(answer, BalanceAnswer)
        assert answer.balance == 10_000
        problem = client.ask(QueryBalance(user_id="nobody"))
        assert isinstance(problem, QueryProblem)
        assert problem.code == "account_not_found"
    assert rabbit.depth("billing.dead") == 0


def test_query_without_a_reader_says_to_ask_again(client: BillingClient) -> None:
    with pytest.raises(NoReplyError, match=r"no reply to query\.catalog within 0\.01 s; ask again"):
        client.ask(QueryCatalog(), timeout_s=0.01)


# -- with a worker ----------------------------------------------------------------------------------------


def test_request_gets_a_reply_of_a_worker(client: BillingClient, workers: WorkerProcesses) -> None:
    workers.start()
    opened = client.request(OPEN, timeout_s=60)
    assert (opened.status, opened.code, opened.balance_after) == ("applied", "account_opened", 10_000)
    deducted = client.request(DEDUCT)
    assert (deducted.status, deducted.balance_before, deducted.balance_after) == ("applied", 10_000, 9_600)
    again = client.request(DEDUCT)
    assert again == deducted.model_copy(update={"duplicate": True})
    refused = client.request(DeductUsage(reference_id="d-2", user_id="ann", tokens=9_601))
    assert (refused.status, refused.code, refused.shortfall) == ("rejected", "insufficient_balance", 1)


def test_trace_context_comes_back_with_the_reply_and_the_answer(
    client: BillingClient, application: Application
) -> None:
    with running(application), running(application, run_reader):
        client.request(OPEN, timeout_s=60, traceparent=TRACEPARENT)
        assert client.reply_traceparent == TRACEPARENT
        client.request(DEDUCT)
        assert client.reply_traceparent is None
        client.ask(QueryBalance(user_id="ann"), traceparent=TRACEPARENT)
        assert client.reply_traceparent == TRACEPARENT
    with pytest.raises(ValueError, match="00-TRACE-SPAN-FLAGS"):
        client.request(DEDUCT, traceparent="nonsense")


def test_event_of_a_payment_needs_no_user(client: BillingClient, workers: WorkerProcesses) -> None:
    workers.start()
    client.request(OPEN, timeout_s=60)
    paid = PaymentSucceeded(
        reference_id="pi", user_id="ann", package_id="starter", amount_minor=499, currency="USD"
    )
    client.request(paid)
    freeze = FreezeAccount(reference_id="fraud", payment_reference_id="pi", reason="fraud warning")
    assert client.request(freeze).user_id == "ann"
    failed = RefundFailed(reference_id="rf", original_reference_id="pi-2", refund_reference_id="re")
    awaited = client.request(failed)
    assert (awaited.code, awaited.user_id) == ("payment_awaited", None)


def test_batch_request_gets_the_replies_to_its_items(client: BillingClient, workers: WorkerProcesses) -> None:
    workers.start()
    client.request(OPEN, timeout_s=60)
    batch = UsageBatch(
        reference_id="ingest-1",
        user_id="ann",
        items=(
            RecordUsage(reference_id="ingest-1/1", user_id="ann", meter="ocr", quantity=2),
            DeductUsage(reference_id="ingest-1/2", user_id="ann", tokens=10_000),
        ),
    )
    reply = client.request(batch)
    assert (reply.status, reply.code) == ("applied", "batch_processed")
    assert (reply.reference_id, reply.applied, reply.rejected, reply.duplicate) == ("ingest-1", 1, 1, False)
    recorded, refused = reply.items or ()
    assert (recorded.reference_id, recorded.code, recorded.amount) == ("ingest-1/1", "usage_recorded", 240)
    assert (refused.code, refused.shortfall) == ("insufficient_balance", 240)
    again = client.request(batch)
    assert (again.duplicate, again.applied, again.rejected) == (True, 1, 1)
    assert again.items == tuple(item.model_copy(update={"duplicate": True}) for item in (recorded, refused))


def test_client_holds_tokens_before_the_price_is_known(
    client: BillingClient, workers: WorkerProcesses
) -> None:
    workers.start()
    client.request(OPEN, timeout_s=60)
    held = client.request(ReserveUsage(reference_id="chat-1", user_id="ann", tokens=3_000, ttl_seconds=60))
    assert (held.code, held.balance_after, held.held) == ("tokens_reserved", 10_000, 3_000)
    settled = client.request(
        SettleUsage(reference_id="chat-1-end", user_id="ann", original_reference_id="chat-1", tokens=700)
    )
    assert (settled.code, settled.balance_after, settled.released, settled.held) == (
        "hold_settled",
        9_300,
        2_300,
        None,
    )


def test_sent_command_gets_its_reply_on_the_named_queue(
    broker_url: str, rabbit: RabbitClient, workers: WorkerProcesses
) -> None:
    workers.start()
    with BillingClient(broker_url, reply_queue=rabbit.reply_queue) as client:
        ids = [client.send(command) for command in (OPEN, DEDUCT)]
    replies = rabbit.replies(ids)
    assert [replies[id_][0]["referenceId"] for id_ in ids] == ["open-ann", "d-1"]


# -- publishing -------------------------------------------------------------------------------------------


def test_command_is_persistent_and_has_its_ids(
    client: BillingClient, rabbit: RabbitClient, broker_url: str
) -> None:
    correlation_id = client.send(DEDUCT)
    ((properties, body),) = rabbit.take("billing.usage", 1)
    assert body == DEDUCT.to_json()
    assert properties.correlation_id == correlation_id
    assert properties.message_id
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.headers["timestamp_in_ms"] // 1000 == properties.timestamp
    assert properties.timestamp == pytest.approx(time(), abs=60)
    assert properties.reply_to is None, "the default response queue"
    assert properties.user_id == broker_url.partition("://")[2].partition(":")[0]


def test_command_is_sent_in_bulk(client: BillingClient, rabbit: RabbitClient) -> None:
    correlation_id = client.send(DEDUCT, lane="bulk")
    ((properties, body),) = rabbit.take("billing.bulk", 1)
    assert (properties.correlation_id, body) == (correlation_id, DEDUCT.to_json())
    assert rabbit.depth("billing.usage") == 0


@pytest.mark.parametrize(
    ("message", "lane", "way_out"),
    [(OPEN, "bulk", "the bulk lane takes usage.*, not account.open"), (DEDUCT, "slow", "use 'interactive'")],
)
def test_wrong_lane_raises_before_anything_is_sent(
    client: BillingClient, rabbit: RabbitClient, message: Message, lane: Any, way_out: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(way_out)):
        client.send(message, lane=lane)
    assert rabbit.depth("billing.bulk") == rabbit.depth("billing.usage") == 0


@pytest.mark.parametrize("replies", ["problems", "none"])
def test_request_without_all_replies_raises_before_it_waits(client: BillingClient, replies: Any) -> None:
    with pytest.raises(ValueError, match="a request waits for its reply; leave `replies` out"):
        client.request(DEDUCT.model_copy(update={"replies": replies}))


def test_each_request_has_its_own_ids(client: BillingClient, rabbit: RabbitClient) -> None:
    for _ in range(2):
        client.send(DEDUCT)
    (first, _), (second, _) = rabbit.take("billing.usage", 2)
    assert first.correlation_id != second.correlation_id
    assert first.message_id != second.message_id


def test_requests_share_a_queue_that_is_deleted_with_the_client(
    broker_url: str, rabbit: RabbitClient
) -> None:
    with BillingClient(broker_url) as client:
        queues = set()
        for _ in range(2):
            with pytest.raises(NoReplyError):
                client.request(DEDUCT, timeout_s=0)
            ((properties, _),) = rabbit.take("billing.usage", 1)
            queues.add(properties.reply_to)
    (queue,) = queues
    assert queue.startswith(f"billing.replies.{rabbit.user}.")

    def is_gone() -> bool:
        channel = rabbit.channel.connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            return bool(error.reply_code == 404)
        channel.close()
        return False

    eventually(is_gone)


# -- replies ----------------------------------------------------------------------------------------------


def test_missing_reply_raises_and_names_the_safe_repetition(client: BillingClient) -> None:
    with pytest.raises(
        NoReplyError, match=r"no reply to 'd-1' within 0\.05 s; send the same reference again"
    ):
        client.request(DEDUCT, timeout_s=0.05)
    assert issubclass(NoReplyError, TransientError)


def test_late_reply_is_not_returned_to_another_request(client: BillingClient, rabbit: RabbitClient) -> None:
    with pytest.raises(NoReplyError):
        client.request(DEDUCT, timeout_s=0)
    queue = answer(rabbit, body=b'{"status": "applied", "code": "tokens_deducted", "message": "late"}')
    with pytest.raises(NoReplyError):
        client.request(BonusCredit(reference_id="b", user_id="ann", tokens=1), timeout_s=0.2)
    assert rabbit.depth("billing.payments") == 1
    assert queue.startswith("billing.replies.")


class Answering(BillingClient):
    """A client whose command is answered by ``rabbit`` with ``body`` as soon as it is published."""

    rabbit: RabbitClient
    body: bytes

    def _wait(self, message: Message | Query, timeout_s: float) -> list[bytes]:
        answer(self.rabbit, body=b"not for us", correlation_id="another")
        (awaited,) = self._replies
        self._publish([_Sending(message, awaited)], "billing", waits=True)
        answer(self.rabbit, body=self.body)
        return super()._wait(message, timeout_s)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"status": "shrugged"}'])
def test_unreadable_reply_raises_a_billing_error(broker_url: str, rabbit: RabbitClient, body: bytes) -> None:
    with Answering(broker_url) as client:
        client.rabbit, client.body = rabbit, body
        with pytest.raises(BillingError, match="the reply can't be read"):
            client.request(DEDUCT)


def test_reply_to_another_request_is_ignored(broker_url: str, rabbit: RabbitClient) -> None:
    reply = Reply(status="applied", code="tokens_deducted", message="ours")
    with Answering(broker_url) as client:
        client.rabbit, client.body = rabbit, reply.to_json()
        assert client.request(DEDUCT) == reply


# -- trouble ----------------------------------------------------------------------------------------------

SECRET = "Tr0ub4dor"


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"redis://u:{SECRET}@h",
        f"amqp://u:{SECRET}",
        f"amqp://u:[{SECRET}@h",
        f"amqp://u:{SECRET}@h?heartbeat=x",
    ],
)
def test_invalid_url_raises_without_the_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="amqp://user:password@host") as caught:
        BillingClient(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_unreachable_broker_raises_without_the_password() -> None:
    with (
        pytest.raises(
            BrokerUnavailableError, match=r"the broker at 127\.0\.0\.1:9 does not answer"
        ) as caught,
        BillingClient(f"amqp://u:{SECRET}@127.0.0.1:9/"),
    ):
        pass
    assert SECRET not in str(caught.value)


def test_wrong_password_or_vhost_raises_a_configuration_error(rabbitmq: RabbitMQServer) -> None:
    address = rabbitmq.address
    for url in (
        f"amqp://{address.user}:{SECRET}@{address.host}:{address.port}/",
        address.url("no-such-vhost"),
    ):
        with (
            pytest.raises(ConfigurationError, match="the user, the password or the vhost"),
            BillingClient(url),
        ):
            pass


def test_missing_exchange_raises_with_the_command_that_helps(bare_broker_url: str) -> None:
    with (
        BillingClient(bare_broker_url) as client,
        pytest.raises(ConfigurationError, match="topology declare"),
    ):
        client.send(DEDUCT)


def test_unroutable_command_raises_with_the_command_that_helps(
    client: BillingClient, rabbit: RabbitClient
) -> None:
    rabbit.channel.queue_unbind("billing.usage", "billing", "usage.*")
    with pytest.raises(ConfigurationError, match=r"no queue takes usage\.deduct: .*topology declare"):
        client.send(DEDUCT)
    client.send(OPEN)
    assert rabbit.depth("billing.payments") == 1


def test_full_queue_raises(client: BillingClient, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_delete("billing.usage")
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    rabbit.channel.queue_declare("billing.usage", durable=True, arguments=arguments)
    rabbit.channel.queue_bind("billing.usage", "billing", "usage.*")
    with pytest.raises(BrokerUnavailableError, match="the broker refuses 'd-1'"):
        client.send(DEDUCT)


def test_channel_that_refuses_is_followed_by_another_one(
    client: BillingClient, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.client._RENEW_AFTER_S", 0)
    client.send(OPEN)
    refusing = client._channel
    rabbit.channel.queue_declare("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    rabbit.channel.queue_bind("full", "billing", "usage.*")
    with pytest.raises(BrokerUnavailableError, match="the broker refuses 'd-1'"):
        client.send(DEDUCT)
    rabbit.channel.queue_delete("full")
    assert client._channel is not refusing
    client.send(DEDUCT)
    assert rabbit.depth("billing.payments") == 1


def close_all(rabbitmq: RabbitMQServer, broker_url: str, count: int) -> None:
    """The broker closes the connections of this vhost."""
    vhost = broker_url.rpartition("/")[2]

    def all_of_them() -> list[BrokerConnection]:
        found = rabbitmq.management.list_connections(vhost)
        return found if len(found) == count else []

    for connection in eventually(all_of_them):
        rabbitmq.management.close_connection(connection.name)


def test_client_opens_another_connection_after_a_loss(broker_url: str, rabbitmq: RabbitMQServer) -> None:
    with BillingClient(broker_url) as client:
        client.send(DEDUCT)
        close_all(rabbitmq, broker_url, 1)
        client.send(OPEN)
    with RabbitClient(broker_url) as rabbit:
        assert rabbit.depth("billing.usage") == 1
        assert rabbit.depth("billing.payments") == 1


def test_request_after_a_lost_connection_has_a_new_queue(broker_url: str, rabbitmq: RabbitMQServer) -> None:
    with BillingClient(broker_url) as client:
        with pytest.raises(NoReplyError):
            client.request(DEDUCT, timeout_s=0)
        close_all(rabbitmq, broker_url, 1)
        with RabbitClient(broker_url) as rabbit:
            rabbit.take("billing.usage", 1)
            with pytest.raises(NoReplyError):
                client.request(DEDUCT, timeout_s=0)
            answer(rabbit)


def test_client_works_again_after_an_error(client: BillingClient, rabbit: RabbitClient) -> None:
    rabbit.channel.exchange_delete("billing")
    with pytest.raises(ConfigurationError):
        client.send(DEDUCT)
    rabbit.channel.exchange_declare("billing", "topic", durable=True)
    rabbit.channel.queue_bind("billing.usage", "billing", "usage.*")
    client.send(DEDUCT)
    assert rabbit.depth("billing.usage") == 1


def test_worker_never_imports_the_client() -> None:
    for path in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            is_client = path.name in ("client.py", "fake_client.py")
            assert is_client or not any(name.startswith("worker.client") for name in names), path
