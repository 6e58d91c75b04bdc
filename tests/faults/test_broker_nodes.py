"""A node of a real RabbitMQ cluster is killed under load: workers go on with the others."""

from pathlib import Path
from time import monotonic

import pytest

from tests.support.load_scenario import assert_clean, load_scenario
from tests.support.rabbitmq_cluster import rabbitmq_cluster
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link

FIRST_ANSWER_S = 5.0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_answers_within_five_seconds_after_its_node_of_a_cluster_was_killed(
    postgres_url: str, tmp_path: Path
) -> None:
    with rabbitmq_cluster() as nodes:
        *others, killed_node = nodes
        hosts = ",".join(f"127.0.0.1:{node.address.port}" for node in (killed_node, *others))
        login = f"{killed_node.address.user}:{killed_node.address.password}"
        link = open_link(killed_node.address.url())  # the queues' leaders are where they were declared
        link.declare(BILLING)
        link.close()
        with load_scenario(
            tmp_path,
            broker_url=others[0].address.url(),  # producer and collector are on another node
            database_url=postgres_url,
            seen=(f"amqp://{login}@{hosts}/", None),
        ) as under:
            under.starts(workers=2)
            under.lasts(2)
            killed_node.stop("immediate")
            killed = monotonic()
            eventually(lambda: under.collector.first_after(killed + 0.2) is not None)
            took = (under.collector.first_after(killed + 0.2) or 0) - killed
            under.lasts(2)
            under.recovers()
            assert_clean(under)
        assert took < FIRST_ANSWER_S, f"{took:.1f} s\n{under.processes.log}"
        assert f"the broker's node 127.0.0.1:{others[0].address.port} is used" in under.processes.log
