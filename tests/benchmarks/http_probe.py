"""Caller of an HTTP server on some connections that it keeps, a process of its own.

A closed loop: each connection sends its next request when it has the answer of the one before. It speaks
through plain sockets: a client library takes more time than the server. Reads its task from standard input as
JSON, writes what it saw to standard output.
"""

import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Self

_PATIENCE_S = 30.0
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


@dataclass(frozen=True, slots=True)
class HttpTask:
    """Requests to send: ``warm_up`` that don't count, then ``counted``, over all ``connections``.

    Each asks for the next of ``paths``, with ``authorization``.
    """

    port: int
    paths: list[str]
    authorization: str
    connections: int
    warm_up: int
    counted: int

    def to_json(self) -> str:
        """JSON for the probe's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a task from the probe's standard input."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class HttpSeen:
    """Time of all counted requests, and of each of them."""

    seconds: float
    latencies_ms: list[float]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what the probe wrote."""
        return cls(**json.loads(text))

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return len(self.latencies_ms) / self.seconds


def seen(task: HttpTask) -> HttpSeen:
    """Send the requests of ``task``. Raises RuntimeError for an answer other than 200."""
    _sent(task, task.warm_up)
    began = perf_counter()
    latencies = _sent(task, task.counted)
    return HttpSeen(perf_counter() - began, latencies)


def _sent(task: HttpTask, count: int) -> list[float]:
    """Return the milliseconds of ``count`` requests, shared by the connections."""
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {task.authorization}\r\n\r\n".encode()
        for path in task.paths
    ]
    each = count // task.connections
    with ThreadPoolExecutor(task.connections) as threads:
        asked = [
            threads.submit(_ask, task.port, requests, range(first * each, (first + 1) * each))
            for first in range(task.connections)
        ]
        return [latency for one in asked for latency in one.result()]


def _ask(port: int, requests: list[bytes], numbers: range) -> list[float]:
    """Return the milliseconds of the requests of these numbers, one after the other on one connection."""
    latencies = []
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in numbers:
            began = perf_counter()
            connection.sendall(requests[number % len(requests)])
            _receive(connection)
            latencies.append((perf_counter() - began) * 1000)
    return latencies


def _receive(connection: socket.socket) -> None:
    """Read one answer to its end."""
    data = connection.recv(65_536)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(connection)
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data[:200].decode(errors="replace"))
    length = _LENGTH.search(data, 0, end + 2)
    if length is None:
        raise RuntimeError("an answer without a length")
    while len(data) < end + 4 + int(length[1]):
        data += _more(connection)


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65_536)
    if not piece:
        raise RuntimeError("the connection ended inside an answer")
    return piece


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(seen(HttpTask.read(sys.stdin.read())))))
