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
from worker.broker import BILLING, JournalLimits, open_link
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


# -- the journal ------------------------------------------------------------------------------------------


def test_journal_takes_what_the_queues_of_work_take_and_nothing_else(
    broker_cli: Cli, rabbit: RabbitClient
) -> None:
    declared = broker_cli("topology", "declare", "--journal")
    assert declared.code == 0
    (line,) = [line for line in declared.lines if line.startswith("billing.journal: declared")]
    assert line.endswith("billing account.*, billing subscription.*, billing usage.*, billing.bulk usage.*")
    assert broker_cli("topology", "declare", "--journal").out == declared.out
    for key in ("usage.deduct.x", "usge.deduct", "query.unknown.x"):
        with pytest.raises(pika.exceptions.UnroutableError):
            rabbit.publish({"type": key})
    rabbit.publish({"type": "query.balance"})
    rabbit.publish({"type": "payment.succeeded"})
    rabbit.publish({"type": "usage.deduct"}, exchange="billing.bulk")
    kept = [json.loads(body)["type"] for body in read_stream(rabbit, "billing.journal", 2)]
    assert kept == ["payment.succeeded", "usage.deduct"]


def test_declare_binds_a_journal_that_is_there(broker_cli: Cli, rabbit: RabbitClient) -> None:
    broker_cli("topology", "declare", "--journal")
    for exchange in ("billing", "billing.bulk"):
        rabbit.channel.queue_unbind("billing.journal", exchange, "usage.*")
    assert broker_cli("topology", "declare").code == 0
    rabbit.publish({"type": "usage.deduct"})
    assert len(read_stream(rabbit, "billing.journal", 1)) == 1


def read_stream(rabbit: RabbitClient, stream: str, count: int) -> list[bytes]:
    """Return the first messages of a stream, read with another client than the worker's."""
    bodies: list[bytes] = []
    rabbit.channel.basic_qos(prefetch_count=100)
    arguments = {"x-stream-offset": "first"}
    for method, _, body in rabbit.channel.consume(stream, arguments=arguments, inactivity_timeout=5):
        assert method is not None, f"{len(bodies)} of {count} messages"
        rabbit.channel.basic_ack(method.delivery_tag)
        bodies.append(body)
        if len(bodies) == count:
            break
    rabbit.channel.cancel()
    return bodies


def test_journal_with_other_limits_is_refused_with_the_way_out(broker_cli: Cli) -> None:
    words = ("topology", "declare", "--journal")
    declared = broker_cli(*words, "--journal-age", "36h", "--journal-size", "1GB", "--json")
    assert declared.json["journal"]["arguments"] == {
        "x-queue-type": "stream",
        "x-max-age": "36h",
        "x-max-length-bytes": 10**9,
        "x-stream-max-segment-size-bytes": 10**8,
    }
    ended = broker_cli(*words)
    assert ended.code == 2
    assert "queue 'billing.journal' differs: PRECONDITION_FAILED" in ended.error
    assert ended.error.endswith(
        "name the limits that it has, or delete it, with all that it keeps, and declare it again"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--journal-age", "2d"], "limits of the journal need --journal"),
        (["--journal", "--journal-size", "150MB"], "--journal-size must hold two segments at least"),
        (["--journal", "--journal-age", "7"], "must be like 7d"),
        (["--journal", "--journal-segment", "0MB"], "must be like 500MB"),
    ],
)
def test_limits_of_the_journal_that_make_no_sense_are_refused(
    bare_cli: Cli, words: list[str], expected: str
) -> None:
    ended = bare_cli("topology", "declare", *words)
    assert (ended.code, expected in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("seconds", "written"), [(604_800, "7D"), (129_600, "36h"), (5_400, "90m"), (30, "30s")]
)
def test_age_of_the_journal_has_one_form(seconds: int, written: str) -> None:
    assert JournalLimits(max_age_s=seconds).arguments["x-max-age"] == written


# -- partitions -------------------------------------------------------------------------------------------


def test_declare_makes_the_queues_of_partitions_and_verify_misses_them(broker_cli: Cli) -> None:
    before = broker_cli("topology", "verify", "--partitions", "8")
    assert before.code == 1
    assert "queue 'billing.usage.07' is missing: run `billing-worker topology declare`" in before.lines
    declared = json.loads(broker_cli("topology", "declare", "--partitions", "8", "--json").out)
    assert declared["partitions"] == 8
    keys = {queue["name"]: queue["routingKeys"] for queue in declared["queues"]}
    assert keys["billing.usage.07"] == ["usage.*.07"]
    assert broker_cli("topology", "verify", BILLING_PARTITIONS="8").code == 0
    assert broker_cli("topology", "verify").code == 0


def test_number_of_partitions_that_is_not_possible_is_refused(broker_cli: Cli) -> None:
    ended = broker_cli("topology", "declare", "--partitions", "12")
    assert ended.code == 2
    assert "BILLING_PARTITIONS: 12 is no number of partitions: use 8, 16, 32 or 64" in ended.err


def test_journal_keeps_what_goes_to_partitions(bare_cli: Cli, bare_broker_url: str) -> None:
    bare_cli.environment["BILLING_BROKER_URL"] = bare_broker_url
    declared = bare_cli("topology", "declare", "--partitions", "8", "--journal")
    assert declared.code == 0
    with RabbitClient(bare_broker_url) as rabbit:
        rabbit.publish(b"{}", routing_key="usage.deduct.07")
        rabbit.publish(b"{}", routing_key="usage.deduct")
        assert rabbit.depth("billing.usage.07") == rabbit.depth("billing.usage") == 1
        eventually(lambda: rabbit.depth("billing.journal") == 2, what="two messages in the journal")
