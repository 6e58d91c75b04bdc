"""One broker node beside a cluster of three: what replicas cost."""

from dataclasses import dataclass, replace

from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.results import Benchmark, BenchmarkContext, Result, alternately, costs, rates, ratio
from tests.benchmarks.sandbox import Servers
from tests.support.rabbitmq_cluster import rabbitmq_cluster

_ONE, _THREE = "one node", "three nodes"


@dataclass(frozen=True, slots=True)
class _ClusterServers(Servers):
    """Servers whose broker is a cluster: the processor time of all its nodes counts."""

    nodes: tuple[int, ...] = ()

    def process_ids(self) -> dict[str, list[int]]:
        return {**Servers.process_ids(self), "rabbitmq": list(self.nodes)}


def run(context: BenchmarkContext) -> Result:
    """Measure a worker on one node and on three in turn."""
    messages, users = context.sized(20_000, 600), context.accounts()
    with rabbitmq_cluster() as cluster:
        first, processes = cluster.nodes[0], tuple(node.process_id for node in cluster.nodes)
        servers = _ClusterServers(context.servers.postgres, first, context.servers.template, processes)
        on_three = replace(context, servers=servers)
        runs = alternately(
            context,
            {
                _ONE: lambda: processed_deductions(context, messages, users, name=_ONE),
                _THREE: lambda: processed_deductions(on_three, messages, users, name=_THREE),
            },
        )
    return Result(
        figures=(
            ratio(f"{_THREE} : {_ONE}", runs[_THREE], runs[_ONE]),
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
        ),
        sizes={"messages": messages, "users": users, "broker nodes": 3},
        notes=(
            "all nodes are on this machine; each queue has a replica on every node, in memory files",
            "the first node leads all queues, and all clients are connected to it",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


BROKERS = Benchmark(
    "brokers",
    "What does a message cost on three broker nodes instead of one?",
    "none, the plan of capacity counts with it",
    run,
)
