"""``topology declare`` and ``verify``, and the policies beside them."""

import json
import shlex
from collections.abc import Callable

import pika
import pytest

from tests.cli.console import Cli
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link
from worker.broker.management import Management
from worker.broker.topology import Queue, Topology

QUEUES = [queue.name for queue in BILLING.queues]


def test_topology_sets_its_policies_with_the_flag(
    cli: Cli, rabbitmq: RabbitMQServer, broker_url: str
) -> None:
    cli.environment["BILLING_MANAGEMENT_URL"] = rabbitmq.address.management_url
    ended = cli("topology", "declare", "--policies")
    assert (ended.code, ended.lines[-3:]) == (0, [f"policy {name}: set" for name in BILLING.policies()])
    management = Management(broker_url, rabbitmq.address.management_url)
    wanted = dict(BILLING.least_delivery_limits())
    eventually(lambda: management.delivery_limits(*wanted) == wanted, what="the limits in force")


def test_topology_says_that_the_management_api_does_not_answer(cli: Cli) -> None:
    ended = cli("topology", "declare", "--policies", BILLING_MANAGEMENT_URL="http://127.0.0.1:1")
    assert ended.code == 3
    assert "the management API at 127.0.0.1:1 does not answer" in ended.err


def test_declare_makes_the_parts_that_verify_misses(bare_cli: Cli, bare_broker_url: str) -> None:
    bare_cli.environment["BILLING_BROKER_URL"] = bare_broker_url
    before = bare_cli("topology", "verify")
    assert before.code == 1
    assert before.lines == [
        f"{what} is missing: run `billing-worker topology declare`"
        for what in (
            *(f"exchange '{name}'" for name in BILLING.exchanges),
            *(f"queue '{name}'" for name in QUEUES),
        )
    ]
    declared = bare_cli("topology", "declare")
    assert declared.code == 0
    assert [line.partition(":")[0] for line in declared.lines[: len(QUEUES)]] == QUEUES
    assert "bound to usage.*" in declared.lines[1]
    assert "exchange billing.events: declared, for notices; bind a queue to receive them" in declared.lines
    after = bare_cli("topology", "verify")
    assert after.code == 0
    assert after.out.startswith("the topology is as it must be")
    assert bare_cli("topology", "declare").out == declared.out


def test_policies_to_set_are_commands_that_can_be_pasted(broker_cli: Cli) -> None:
    expected = [
        line for line in broker_cli("topology", "declare").lines if line.startswith("policy to set: ")
    ]
    pasted = [shlex.split(line.removeprefix("policy to set: ")) for line in expected]
    assert {words[2]: (words[3], json.loads(words[4])) for words in pasted} == BILLING.policies()
    for words in pasted:
        assert words[:2] == ["rabbitmqctl", "set_policy"]
        assert words[5:] == ["--apply-to", "queues"]


Wrong = Callable[[pika.adapters.blocking_connection.BlockingChannel], object]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda channel: channel.queue_delete("billing.usage"), "queue 'billing.usage' is missing"),
        (lambda channel: channel.exchange_delete("billing"), "exchange 'billing' is missing"),
    ],
)
def test_verify_names_the_missing_parts(
    broker_cli: Cli, rabbit: RabbitClient, wrong: Wrong, expected: str
) -> None:
    wrong(rabbit.channel)
    ended = broker_cli("topology", "verify")
    assert ended.code == 1
    assert ended.lines == [f"{expected}: run `billing-worker topology declare`"]


def test_queue_of_another_type_is_shown_with_the_difference_and_the_way_out(
    broker_cli: Cli, rabbit: RabbitClient
) -> None:
    rabbit.channel.queue_delete("billing.usage")
    rabbit.channel.queue_declare("billing.usage", durable=True)
    verified = broker_cli("topology", "verify")
    assert verified.code == 1
    (line,) = verified.lines
    assert line.startswith("queue 'billing.usage' differs: PRECONDITION_FAILED")
    assert "x-queue-type" in line
    assert line.endswith("delete it when it is empty, then declare it")
    declared = broker_cli("topology", "declare")
    assert declared.code == 2
    assert "PRECONDITION_FAILED" in declared.error
    rabbit.channel.queue_delete("billing.usage")
    assert broker_cli("topology", "declare").code == 0
    assert broker_cli("topology", "verify").code == 0


def test_exchange_of_another_type_is_shown_with_the_difference(bare_cli: Cli, bare_broker_url: str) -> None:
    bare_cli.environment["BILLING_BROKER_URL"] = bare_broker_url
    with RabbitClient(bare_broker_url) as rabbit:
        rabbit.channel.exchange_declare("billing", "fanout", durable=True)
        ended = bare_cli("topology", "verify")
    assert ended.code == 1
    assert ended.lines[0].startswith("exchange 'billing' differs: PRECONDITION_FAILED")
    assert "'fanout'" in ended.lines[0]
    assert len(ended.lines) == len(BILLING.exchanges) + len(QUEUES), "the queues are looked at all the same"


def test_binding_that_is_gone_is_put_right_by_declaring(broker_cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_unbind("billing.usage", "billing", "usage.*")
    with pytest.raises(pika.exceptions.UnroutableError):
        rabbit.publish({"type": "usage.deduct"})
    broker_cli("topology", "declare")
    rabbit.publish({"type": "usage.deduct"})


_OTHER = Topology(
    "other", (), replies=Queue("other.replies"), dead=Queue("other.dead"), queries=Queue("other.queries")
)


def test_topology_with_more_than_ours_is_as_it_must_be(broker_cli: Cli, broker_url: str) -> None:
    link = open_link(broker_url)
    link.declare(_OTHER)
    link.close()
    assert broker_cli("topology", "verify").code == 0
