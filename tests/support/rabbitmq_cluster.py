"""Private RabbitMQ cluster of three nodes on one machine, any of which may be killed."""

import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.private_server import ServerError, memory_folder, started
from tests.support.rabbitmq_management import ManagementClient
from tests.support.rabbitmq_server import RabbitMQ, rabbitmq_binary

_SIZE = 3


class ClusterNode(RabbitMQ):
    """Node of a cluster; the first one has the epmd that all are found by."""

    _first: "ClusterNode | None" = None
    _cookie: str

    @classmethod
    def of(cls, first: "ClusterNode | None") -> "ClusterNode":
        """Start a node that joins ``first``, or the first one."""
        script = rabbitmq_binary()
        if script is None:
            raise ServerError("RabbitMQ is not installed: run python -m tests.support.provision")
        node = cls(Path(tempfile.mkdtemp(prefix="billing-rabbitmq-", dir=memory_folder())), script, None)
        node._first, node._cookie = first, first._cookie if first else secrets.token_hex(10)
        if first is not None:
            node.address = replace(node.address, user=first.address.user, password=first.address.password)
            node.management = ManagementClient(node.address)
            node._epmd_port = first._epmd_port
            node._settings = _joining(first)
        return started(node, node._configure)

    @property
    def name_in_cluster(self) -> str:
        """The name that other nodes know it by."""
        return f"billing-{self.address.port}@localhost"

    def _configure(self) -> None:
        super()._configure()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _launch(self) -> subprocess.Popen[bytes]:
        if self._first is None:
            return super()._launch()
        return self._child([str(self._script), "-noinput"])


def _joining(first: ClusterNode) -> Sequence[str]:
    return [
        "cluster_formation.peer_discovery_backend = classic_config",
        f"cluster_formation.classic_config.nodes.1 = {first.name_in_cluster}",
    ]


@contextmanager
def rabbitmq_cluster() -> Iterator[list[ClusterNode]]:
    """Start a cluster; its queues keep their majority when one node is killed.

    The first node has the epmd: kill another one, or nobody finds those that come back.
    """
    with ExitStack() as nodes:
        first = nodes.enter_context(ClusterNode.of(None))
        yield [first, *(nodes.enter_context(ClusterNode.of(first)) for _ in range(_SIZE - 1))]
