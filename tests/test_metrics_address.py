"""Address that metrics are served on: the loopback alone, unless another one is set."""

from contextlib import closing
from socket import create_connection

import pytest

from tests.support.private_server import free_port
from worker.errors import ConfigurationError
from worker.metrics import Metrics
from worker.settings import Settings


def test_metrics_are_served_on_their_address_alone() -> None:
    port = free_port()
    Metrics().serve(Settings().metrics_listen, port)
    with closing(create_connection(("127.0.0.1", port), timeout=5)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 200"
    with pytest.raises(ConnectionRefusedError):
        create_connection(("127.0.0.2", port), timeout=5)


def test_address_of_another_machine_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="BILLING_METRICS_LISTEN"):
        Metrics().serve("192.0.2.1", free_port())
