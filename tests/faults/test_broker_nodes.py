"""Nodes of a real RabbitMQ cluster are killed under load: workers go on with the others."""

import re
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from tests.support.load_scenario import LoadScenario, assert_clean, load_scenario
from tests.support.rabbitmq_cluster import Cluster, ClusterNode
from tests.support.source_files import ROOT
from tests.support.steady_producer import Publication
from tests.support.user_order import misplaced
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link
from worker.ledger.engine import ledger_engine

FIRST_ANSWER_S = 5.0
PARTITIONS = 8
_MORE_NODES = (
    (ROOT / "worker/GROWING.md").read_text().partition("## More broker nodes")[2].partition("\n## ")[0]
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_answers_within_five_seconds_after_its_node_of_a_cluster_was_killed(
    broker_cluster: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    *others, killed_node = broker_cluster.nodes
    vhost = broker_cluster.new_vhost(on=killed_node)
    with load_scenario(
        tmp_path,
        broker_url=others[0].address.url(vhost),  # producer and collector are on another node
        database_url=postgres_url,
        seen=(broker_cluster.url(vhost, first=killed_node), None),
    ) as under:
        under.starts(workers=2)
        under.lasts(2)
        killed_node.kill()
        killed = monotonic()
        eventually(lambda: under.collector.first_after(killed + 0.2) is not None)
        took = (under.collector.first_after(killed + 0.2) or 0) - killed
        under.lasts(2)
        under.recovers()
        assert_clean(under)
    assert took < FIRST_ANSWER_S, f"{took:.1f} s\n{under.processes.log}"
    assert f"the broker's node 127.0.0.1:{others[0].address.port} is used" in under.processes.log


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_partitions_survive_the_loss_of_a_leader_and_of_the_node_that_leads_most(
    broker_cluster: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    vhost = broker_cluster.new_vhost(partitions=PARTITIONS)
    with load_scenario(
        tmp_path, broker_url=broker_cluster.url(vhost), database_url=postgres_url, partitions=PARTITIONS
    ) as under:
        under.starts(workers=2)
        flows = [unbroken_flow(under)]

        def survives(node: ClusterNode) -> None:
            broker_cluster.loses(node, vhost)
            under.recovers()
            flows.append(unbroken_flow(under))
            broker_cluster.regains(node, vhost)

        survives(broker_cluster.leader_of(vhost, "billing.usage.03"))
        survives(broker_cluster.leader_of_most(vhost))
        broker_cluster.rebalances(vhost)  # leaders move while workers take from them
        under.lasts(1)
        assert_clean(under)
    assert in_order(postgres_url, flows) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_node_joins_and_leaves_under_load_by_the_commands_of_the_manual(
    broker_cluster: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    first = broker_cluster.nodes[0]
    vhost = broker_cluster.new_vhost(partitions=PARTITIONS)
    with (
        ClusterNode.of(first, joins=False) as new,
        load_scenario(
            tmp_path, broker_url=broker_cluster.url(vhost), database_url=postgres_url, partitions=PARTITIONS
        ) as under,
    ):
        under.starts(workers=2)
        larger = Cluster([*broker_cluster.nodes, new])
        for command in ("rabbitmqctl stop_app", "rabbitmqctl join_cluster", "rabbitmqctl start_app"):
            new.control(of_manual(command, first))
        for command in ("rabbitmq-queues grow", "rabbitmq-queues rebalance"):
            new.control(of_manual(command, new))
        eventually(lambda: larger.is_whole(vhost), what="each queue has a replica on the new node")
        eventually(lambda: new.name_in_cluster in larger.leaders(vhost).values(), what="it leads queues")
        under.recovers()
        first.control(of_manual("rabbitmq-queues shrink", new))
        new.stop()
        first.control(of_manual("rabbitmqctl forget_cluster_node", new))
        eventually(lambda: broker_cluster.is_whole(vhost), what="the others lead all queues")
        under.recovers()
        assert_clean(under)


def of_manual(command: str, node: ClusterNode) -> str:
    """Return the manual's command line that begins so, with the name of a node in place of its example."""
    inline = [" ".join(code.split()) for code in re.findall(r"`(rabbitmq[^`]+)`", _MORE_NODES)]
    (line,) = (
        line for line in [*inline, *map(str.strip, _MORE_NODES.splitlines())] if line.startswith(command)
    )
    return re.sub(r"rabbit@mq\d", node.name_in_cluster, line)


def unbroken_flow(under: LoadScenario) -> list[Publication]:
    """Return what is published and answered while no node is lost, after all that came before."""
    under.recovers()
    before = len(under.producer.published)
    under.lasts(2)
    after = len(under.producer.published)
    under.recovers()
    return under.producer.published[before:after]


def in_order(database_url: str, flows: list[list[Publication]]) -> list[str]:
    """Return a line for each user whose messages of a flow and a lane changed their order."""
    engine = ledger_engine(database_url)
    try:
        return [line for flow in flows for line in misplaced(engine, flow)]
    finally:
        engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_queue_without_replicas_is_said_to_be_on_a_node_that_is_away(broker_cluster: Cluster) -> None:
    *others, killed_node = broker_cluster.nodes
    vhost = broker_cluster.new_vhost(on=killed_node)
    broker_cluster.loses(killed_node, vhost)
    with closing(open_link(others[0].address.url(vhost))) as link:
        (difference,) = link.differences(BILLING)
        assert difference == (
            "queue 'billing.queries' is on a node that is away: start that node of the broker"
        )
