"""Nodes of a broker: tried in turn, the last good one first, and left when they are gone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from schemas import OpenAccount
from tests.cli.console import Cli
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.tcp_proxy import Proxy
from tests.support.worker_thread import running
from worker.addresses import BrokerAddress, Server
from worker.bootstrap import Application
from worker.broker import open_link
from worker.broker.rabbitmq.nodes import Nodes
from worker.client import BillingClient
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.settings import load_settings

NOBODY = "127.0.0.1:1"
FIRST_ANSWER_S = 5.0


@pytest.fixture
def two_nodes(rabbitmq: RabbitMQServer) -> Iterator[tuple[Proxy, Proxy]]:
    """Two ways to one broker, which end as a node ends."""
    with Proxy(rabbitmq.address.port) as first, Proxy(rabbitmq.address.port) as second:
        yield first, second


def at(url: str, *places: str | Proxy) -> str:
    """Return the URL of the same virtual host at other places."""
    login, _, rest = url.partition("@")
    hosts = [place if isinstance(place, str) else f"127.0.0.1:{place.port}" for place in places]
    return f"{login}@{','.join(hosts)}/{rest.partition('/')[2]}"


def kill(node: Proxy) -> None:
    """End a node: its connections are reset, and nobody listens any more."""
    node.close()
    node.reset()


# -- the order --------------------------------------------------------------------------------------------


def test_last_good_node_is_tried_first_and_a_bad_one_is_forgotten() -> None:
    a, b, c = (Server(host, 5672) for host in "abc")
    nodes = Nodes(BrokerAddress.parse("amqp://a,b,c"))
    assert nodes.in_turn() == [a, b, c]
    nodes.keep(c)
    assert nodes.in_turn() == [c, a, b]
    nodes.leave(a)
    assert nodes.in_turn() == [c, a, b]
    nodes.leave(c)
    assert nodes.in_turn() == [a, b, c]


def test_links_begin_with_the_node_that_was_good_last(
    broker_url: str, two_nodes: tuple[Proxy, Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = two_nodes
    url = at(broker_url, NOBODY, second, first)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            open_link(url, consume=["billing.usage"]).close()
    assert caplog.messages == [f"the broker's node 127.0.0.1:{second.port} is used"]
    with caplog.at_level(logging.INFO):
        kill(second)
        open_link(url).close()
    assert caplog.messages[1:] == [f"the broker's node 127.0.0.1:{first.port} is used"]


def test_nodes_of_which_none_answers_are_all_named_without_the_password() -> None:
    with pytest.raises(BrokerUnavailableError) as caught:
        open_link("amqp://u:s3cr3t@127.0.0.1:1,amqp://u:s3cr3t@[::1]:2")
    assert "127.0.0.1:1: " in str(caught.value)
    assert "[::1]:2: " in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_login_that_each_node_refuses_is_a_matter_of_configuration(
    rabbitmq: RabbitMQServer, two_nodes: tuple[Proxy, Proxy]
) -> None:
    wrong = rabbitmq.address.url("/").replace(rabbitmq.address.password, "wrong")
    with pytest.raises(ConfigurationError, match="refuses"):
        open_link(at(wrong, *two_nodes))
    with pytest.raises(BrokerUnavailableError, match="refuse"):
        open_link(at(wrong, NOBODY, two_nodes[0]))  # the other one may take it


def test_node_that_says_nothing_is_left_within_seconds(
    broker_url: str, two_nodes: tuple[Proxy, Proxy]
) -> None:
    two_nodes[0].hang()
    began = monotonic()
    open_link(at(broker_url, *two_nodes), consume=["billing.usage"]).close()
    assert monotonic() - began < FIRST_ANSWER_S


# -- a node is killed -------------------------------------------------------------------------------------


@contextmanager
def worker(broker_url: str, database_url: str) -> Iterator[None]:
    application = Application(load_settings(broker_url=broker_url, database_url=database_url, readers=0))
    with running(application):
        yield
    application.engine.dispose()


def test_worker_answers_within_five_seconds_after_its_node_was_killed(
    broker_url: str,
    postgres_url: str,
    rabbit: RabbitClient,
    two_nodes: tuple[Proxy, Proxy],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    account = {"type": "account.open", "userId": "u", "tier": "free"}
    with worker(at(broker_url, *two_nodes), postgres_url):
        rabbit.request({**account, "referenceId": "before"})
        kill(two_nodes[0])
        killed = monotonic()
        reply = rabbit.request({**account, "referenceId": "after"})
        took = monotonic() - killed
    assert reply["referenceId"] == "after"
    assert took < FIRST_ANSWER_S
    assert f"the broker's node 127.0.0.1:{two_nodes[1].port} is used" in caplog.messages


def test_client_goes_on_with_the_other_node(
    broker_url: str, postgres_url: str, two_nodes: tuple[Proxy, Proxy]
) -> None:
    with worker(broker_url, postgres_url), BillingClient(at(broker_url, NOBODY, *two_nodes)) as client:
        client.request(OpenAccount(reference_id="before", user_id="u", tier="free"))
        kill(two_nodes[0])
        killed = monotonic()
        reply = client.request(OpenAccount(reference_id="after", user_id="u", tier="free"))
    assert reply.reference_id == "after"
    assert monotonic() - killed < FIRST_ANSWER_S


def test_client_names_all_nodes_of_which_none_answers() -> None:
    with (
        pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1, 127\.0\.0\.1:2 does not answer"),
        BillingClient("amqp://u:p@127.0.0.1:1,amqp://u:p@127.0.0.1:2"),
    ):
        pass


# -- check ------------------------------------------------------------------------------------------------


def test_check_notes_the_node_that_does_not_answer(
    broker_url: str, postgres_url: str, two_nodes: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(monkeypatch, {"BILLING_DATABASE_URL": postgres_url})

    def line(*places: str | Proxy) -> str:
        lines = cli("check", BILLING_BROKER_URL=at(broker_url, *places)).lines
        (found,) = [line for line in lines if line.split()[1].startswith("broker")]
        return found

    first, second = (f"127.0.0.1:{node.port}" for node in two_nodes)
    well = line(*two_nodes)
    assert well.startswith("ok")
    assert well.endswith(f"{first} answers; {second} answers")
    noted = line(NOBODY, two_nodes[0])
    assert noted.startswith("note")
    assert f"{NOBODY} does not answer: " in noted
    assert noted.endswith(f"{first} answers")
