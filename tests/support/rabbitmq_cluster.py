"""Private RabbitMQ cluster of three nodes on one machine, any of which may be killed."""

import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from tests.support.private_server import ServerError, memory_folder, started
from tests.support.rabbitmq_management import ManagementClient
from tests.support.rabbitmq_server import RabbitMQ, rabbitmq_binary
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link

_SIZE = 3
_CONTROL_S = 60.0


class ClusterNode(RabbitMQ):
    """Node of a cluster; the first one has the login and the epmd that all are found by."""

    _first: "ClusterNode | None" = None
    _cookie: str

    @classmethod
    def of(cls, first: "ClusterNode | None", *, joins: bool = True) -> "ClusterNode":
        """Start a node that joins ``first``, or only knows its cookie; without ``first`` the first one."""
        script = rabbitmq_binary()
        if script is None:
            raise ServerError("RabbitMQ is not installed: run python -m tests.support.provision")
        node = cls(Path(tempfile.mkdtemp(prefix="billing-rabbitmq-", dir=memory_folder())), script, None)
        node._first, node._cookie = first, first._cookie if first else secrets.token_hex(10)
        if first is not None:
            node.address = replace(node.address, user=first.address.user, password=first.address.password)
            node.management = ManagementClient(node.address)
            node._epmd_port = first._epmd_port
            node._settings = _joining(first) if joins else ()
        return started(node, node._configure)

    @property
    def name_in_cluster(self) -> str:
        """The name that other nodes know it by."""
        return f"billing-{self.address.port}@localhost"

    def control(self, command: str) -> None:
        """Run a command line of RabbitMQ's tools at this node. Raises ServerError."""
        tool, *arguments = shlex.split(command)
        done = subprocess.run(
            [str(self._script.with_name(tool)), *arguments],
            env=self._environment() | {"RABBITMQ_CTL_DIST_PORT_MIN": "0", "RABBITMQ_CTL_DIST_PORT_MAX": "0"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_CONTROL_S,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def kill(self) -> None:
        """Kill the node alone (SIGKILL): those that come back find the others by the epmd, which stays."""
        epmd, self._epmd = self._epmd, None
        try:
            self.stop("immediate")
        finally:
            self._epmd = epmd

    def _configure(self) -> None:
        super()._configure()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _launch(self) -> subprocess.Popen[bytes]:
        if self._first is None and self._epmd is None:
            return super()._launch()
        return self._child([str(self._script), "-noinput"])


def _joining(first: ClusterNode) -> Sequence[str]:
    return [
        "cluster_formation.peer_discovery_backend = classic_config",
        f"cluster_formation.classic_config.nodes.1 = {first.name_in_cluster}",
    ]


@dataclass(frozen=True)
class Cluster:
    """Nodes of a cluster, and the replicas of its queues as a node that runs sees them."""

    nodes: Sequence[ClusterNode]

    def url(self, vhost: str, *, first: ClusterNode | None = None) -> str:
        """Return the URL of all nodes; clients try ``first`` before the others."""
        nodes = sorted(self.nodes, key=lambda node: node is not first)
        login, _, _ = nodes[0].address.url().removeprefix("amqp://").rpartition("@")
        hosts = ",".join(f"127.0.0.1:{node.address.port}" for node in nodes)
        return f"amqp://{login}@{hosts}/{vhost}"

    def new_vhost(self, *, partitions: int = 0, on: ClusterNode | None = None) -> str:
        """Make a virtual host with the topology; return its name.

        Queues without a partition are led by the node ``on``, those of partitions by all nodes in turn.
        """
        node, name = on or self._any(), f"test_{uuid4().hex[:12]}"
        node.management.create_vhost(name)
        link = open_link(node.address.url(name))
        link.declare(BILLING.partitioned(partitions))
        link.close()
        eventually(lambda: self.is_whole(name), what="each queue has its replicas")
        return name

    def leader_of(self, vhost: str, queue: str) -> ClusterNode:
        """Return the node that leads a queue."""
        leader = eventually(lambda: self.leaders(vhost)[queue], what=f"a leader of {queue}")
        return next(node for node in self.nodes if node.name_in_cluster == leader)

    def leader_of_most(self, vhost: str) -> ClusterNode:
        """Return the node that leads the most queues; of several the first."""
        led = list(self.leaders(vhost).values())
        return max(self.nodes, key=lambda node: led.count(node.name_in_cluster))

    def leaders(self, vhost: str) -> dict[str, str | None]:
        """Return the node that leads each quorum queue, by its name in the cluster; None between leaders."""
        queues = self._any().management.quorum_queues(vhost)
        return {name: queue.leader for name, queue in queues.items()}

    def loses(self, node: ClusterNode, vhost: str) -> None:
        """Kill a node, and wait until others lead its queues."""
        node.kill()
        running = {each.name_in_cluster for each in self.nodes if each.running}
        eventually(
            lambda: running.issuperset(self.leaders(vhost).values()), what="nodes that run lead all queues"
        )

    def regains(self, node: ClusterNode, vhost: str) -> None:
        """Start a killed node again, and wait until each queue has all its replicas."""
        node.resume()
        eventually(lambda: self.is_whole(vhost), what="all replicas are back")

    def rebalances(self, vhost: str) -> None:
        """Spread the leaders over the nodes, as `rabbitmq-queues rebalance quorum` does, and wait for it."""
        self._any().management.rebalance_queues()
        names = {node.name_in_cluster for node in self.nodes}
        eventually(lambda: names.issubset(self.leaders(vhost).values()), what="each node leads a queue")

    def is_whole(self, vhost: str) -> bool:
        """True where each queue has a replica on every node, and no other."""
        queues = self._any().management.quorum_queues(vhost).values()
        nodes = {node.name_in_cluster for node in self.nodes}
        return all(queue.online == nodes for queue in queues)

    def _any(self) -> ClusterNode:
        return next(node for node in self.nodes if node.running)


@contextmanager
def rabbitmq_cluster() -> Iterator[Cluster]:
    """Start a cluster; its queues keep their majority when one node is killed."""
    with ExitStack() as nodes:
        first = nodes.enter_context(ClusterNode.of(None))
        yield Cluster([first, *(nodes.enter_context(ClusterNode.of(first)) for _ in range(_SIZE - 1))])
