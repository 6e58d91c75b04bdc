"""One RabbitMQ for all processes of a run: the process that hands out the tests starts it.

A node costs four seconds of a core, and each test has a virtual host of its own in it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.private_server import ServerError, memory_folder
from tests.support.provision import GivenRabbitMQ, RabbitMQServer, rabbitmq_server
from tests.support.rabbitmq_management import ManagementClient, RabbitMQAddress
from tests.support.waiting import eventually

#: Name of the file's path in what a process of the run is given.
WORKER_INPUT = "rabbitmq"


class SharedBroker:
    """RabbitMQ that starts in the background and is stopped at the end of the run."""

    def __init__(self) -> None:
        self._servers = ExitStack()
        folder = self._servers.enter_context(TemporaryDirectory(prefix="billing-run-", dir=memory_folder()))
        self.path = Path(folder) / "rabbitmq.json"
        self._starting = threading.Thread(target=self._start)
        self._starting.start()

    def close(self) -> None:
        """Stop the broker."""
        self._starting.join()
        self._servers.close()

    def _start(self) -> None:
        try:
            server = self._servers.enter_context(rabbitmq_server(folder=memory_folder()))
            found: dict[str, Any] = {"address": asdict(server.address)}
        except ServerError as error:
            found = {"error": str(error)}
        written = self.path.with_suffix(".new")
        written.write_text(json.dumps(found))
        written.rename(self.path)  # a reader finds the whole file, or none


@contextmanager
def broker_of_the_run(path: str | None) -> Iterator[RabbitMQServer]:
    """Yield the broker that the file at ``path`` names; without one, a broker of this process."""
    if path is None:
        with rabbitmq_server(folder=memory_folder()) as server:
            yield server
        return
    file = Path(path)
    eventually(file.exists, what="RabbitMQ of the run")
    found = json.loads(file.read_text())
    if "error" in found:
        raise ServerError(found["error"])
    address = RabbitMQAddress(**found["address"])
    yield GivenRabbitMQ(address, ManagementClient(address))
