"""Nodes of a broker, in the order in which connections try them: the last good one first."""

import logging
import threading
from functools import lru_cache

from worker.addresses import BrokerAddress, Server
from worker.errors import ConfigurationError

log = logging.getLogger(__name__)

_URLS_MAX = 64


class Nodes:
    """Nodes of one broker, shared by all links of a process: each begins with the last good node."""

    def __init__(self, address: BrokerAddress) -> None:
        self.address = address
        self._good: Server | None = None
        self._lock = threading.Lock()

    @property
    def are_several(self) -> bool:
        """True where another node can be tried."""
        return len(self.address.nodes) > 1

    def in_turn(self) -> list[Server]:
        """Return all nodes, the last good one first, the others as they were named."""
        with self._lock:
            return sorted(self.address.nodes, key=lambda node: node != self._good)

    def keep(self, node: Server) -> None:
        """Begin with ``node`` from now on; a change is logged where there are several."""
        with self._lock:
            before, self._good = self._good, node
        if self.are_several and before != node:
            log.info("the broker's node %s is used", node)

    def leave(self, node: Server) -> None:
        """Begin with another node from now on."""
        with self._lock:
            if self._good == node:
                self._good = None


@lru_cache(maxsize=_URLS_MAX)
def nodes_of(url: str) -> Nodes:
    """Return the nodes of a URL, the same ones for each of its links. Raises ConfigurationError."""
    try:
        return Nodes(BrokerAddress.parse(url))
    except ValueError as error:
        raise ConfigurationError(f"the broker URL {error}") from None
