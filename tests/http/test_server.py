"""Web server of the HTTP door: bad requests, slow clients, a ledger that hangs, the stop."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from tests.cli.console import FilledLedger
from tests.http.conftest import Served
from tests.support.waiting import eventually
from worker.errors import ConfigurationError
from worker.http import server as server_module
from worker.http.server import HEADERS_MAX, SPARE_THREADS, ServerLimits, WebServer, serve
from worker.runtime.address import Address
from worker.runtime.stop import SignalStop

_LOCAL = Address("127.0.0.1", 0)
_BALANCE = "/v1/balance?userId=ada"
_THREADS = 2
_PATIENCE_S = 30.0


class Running:
    """Server that runs in a thread of its own until ``stop``."""

    def __init__(self, served: Served, threads: int = _THREADS + SPARE_THREADS) -> None:
        self.served = served
        self._stop = threading.Event()
        self._server = WebServer(
            served.app,
            _LOCAL,
            served.application.metrics,
            limits=ServerLimits(threads),
        )
        self._drain_s = _PATIENCE_S
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._server.poll(1.0)
        self._server.drain(self._drain_s)
        self._server.close()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a caller with the scope ``accounts``."""
        return {"Authorization": f"Bearer {self.served.secrets['app']}"}

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        return http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=_PATIENCE_S)

    def socket(self, source: str = "127.0.0.1") -> socket.socket:
        """Return an open connection from ``source``, for bytes that no client library sends."""
        address = ("127.0.0.1", self._server.port)
        return socket.create_connection(address, timeout=_PATIENCE_S, source_address=(source, 0))

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Ask on a connection of its own; return status and body."""
        connection = self.connect()
        connection.request("GET", path, headers={**self.headers, **headers})
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        return response.status, body

    def begin_stop(self, within_s: float = _PATIENCE_S) -> None:
        """Ask for the stop, as a signal does."""
        self._drain_s = within_s
        self._stop.set()
        with suppress(OSError):  # closed already
            self._server.pull_trigger()

    def wait(self) -> None:
        """Wait for the end."""
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def running(served: Served, ledger: FilledLedger) -> Iterator[Running]:
    """Server over a ledger with the account of ada."""
    ledger.open("ada")
    running = Running(served)
    yield running
    running.begin_stop(0)
    running.wait()


class Hang:
    """Ledger that hangs until ``end``."""

    def __init__(self, running: Running) -> None:
        self._service = running.served.service
        self._free, self._inside = threading.Event(), threading.Semaphore(0)
        self._service.before = self._wait

    def _wait(self) -> None:
        self._inside.release()
        assert self._free.wait(_PATIENCE_S)

    def until_inside(self, count: int) -> None:
        """Wait until so many requests hang."""
        for _ in range(count):
            assert self._inside.acquire(timeout=_PATIENCE_S)

    def end(self) -> None:
        """Let all of them go on."""
        self._service.before = lambda: None
        self._free.set()


@pytest.fixture
def hang(running: Running) -> Iterator[Hang]:
    """Ledger that hangs, at the latest until the test ends."""
    hang = Hang(running)
    yield hang
    hang.end()


class Asking:
    """Requests in threads of their own."""

    def __init__(self, running: Running, count: int) -> None:
        self.answers: list[tuple[int, Any]] = []
        self._running = running
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with suppress(http.client.HTTPException, OSError):
            self.answers.append(self._running.get(_BALANCE))

    def wait(self) -> list[tuple[int, Any]]:
        """Return the answers, when all have come or never will."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        return self.answers


def received(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body of the response, after which the connection ends."""
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, json.loads(body)


# -- requests ---------------------------------------------------------------------------------------------


def test_connection_is_kept_for_many_requests(running: Running) -> None:
    connection = running.connect()
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("GET", _BALANCE, headers=running.headers)
        response = connection.getresponse()
        assert json.loads(response.read())["userId"] == "ada"
        assert connection.sock is kept
        assert response.getheader("Server") is None
    connection.close()


def test_head_keeps_the_connection(running: Running) -> None:
    connection = running.connect()
    for method, has_body in (("HEAD", False), ("GET", True), ("HEAD", False)):
        connection.request(method, _BALANCE, headers=running.headers)
        response = connection.getresponse()
        assert bool(response.read()) is has_body
        assert int(response.getheader("Content-Length") or 0) > 0
    connection.close()


@pytest.mark.parametrize(
    ("request_", "status", "way_out"),
    [
        (b"POST /v1/balance HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 413, "parameters of a GET"),
        (
            b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            413,
            "parameters of a GET",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "no Transfer-Encoding"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEADERS_MAX + b"\r\n\r\n", 431, str(HEADERS_MAX)),
        (b"GET /" + b"x" * HEADERS_MAX + b" HTTP/1.1\r\n\r\n", 431, str(HEADERS_MAX)),
        (b"nonsense\r\n\r\n", 400, "HTTP/1.1"),
        (b"get / HTTP/1.1\r\n\r\n", 400, "HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nAuthorization Bearer bwt_secret\r\n\r\n", 400, "HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "HTTP/1.1"),  # TLS
    ],
)
def test_bad_request_is_a_problem_and_ends_the_connection(
    running: Running, request_: bytes, status: int, way_out: str
) -> None:
    with running.socket() as connection:
        connection.sendall(request_)
        found, headers, problem = received(connection)
    assert (found, problem["status"], problem["code"]) == (
        status,
        status,
        "unprocessable" if status == 501 else "malformed",
    )
    assert way_out in problem["detail"]
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Connection"] == "close"
    assert "secret" not in json.dumps(problem)


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://elsewhere/v1/balance HTTP/1.1\r\nHost: x",
        b"GET * HTTP/1.1\r\nHost: x",
        b"GET /v1/balance HTTP/1.1",
        b"GET /v1/balance HTTP/1.1\r\nHost: a b",
        b"GET /v1/balance HTTP/1.1\r\nHost: \xff\xfe",
        b"GET /v1/balance HTTP/1.1\r\nHost: x:port",
        b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nHost: y",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x",
        b"GET /%ff%00%2f HTTP/1.1\r\nHost: x",
        b"GET /v1/balance?userId=\xff HTTP/1.1\r\nHost: x",
        b"GET /v1/balance?%00=%00 HTTP/1.1\r\nHost: x",
        b"GET /v1/balance#fragment HTTP/1.1\r\nHost: x",
        b"GET /v1/../v1/balance HTTP/1.1\r\nHost: x",
        b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff",
        b'GET /v1/balance HTTP/1.1\r\nHost: x\r\nIf-None-Match: \xff"',
        b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nContent-Type: \xff;=;",
        b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1",
        b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: \xff",
        b"BREW /v1/balance HTTP/1.1\r\nHost: x",
        b"GET /v1/balance HTTP/9.9\r\nHost: x",
        b"GET /v1/balance",
    ],
)
@pytest.mark.parametrize("has_token", [True, False])
def test_strange_request_is_no_fault_of_ours(running: Running, head: bytes, has_token: bool) -> None:
    token = f"\r\nAuthorization: {running.headers['Authorization']}" if has_token else ""
    with running.socket() as connection:
        connection.sendall(head + f"{token}\r\nConnection: close\r\n\r\n".encode())
        status, headers, body = received(connection)
    assert status < 500
    if status != 200:
        assert headers["Content-Type"] == "application/problem+json"
        assert body["detail"]


def test_bad_request_is_counted(running: Running) -> None:
    with running.socket() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        received(connection)
    counter = running.served.application.metrics.http_requests.labels("other", 400)
    assert counter._value.get() == 1


def test_taken_address_is_refused_with_the_way_out(served: Served) -> None:
    with _LOCAL.bind() as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="choose another with --listen"):
            serve(
                served.app,
                address,
                SignalStop(),
                served.application.metrics,
                limits=ServerLimits(1),
                on_listening=lambda _url: None,
            )


# -- slow clients -----------------------------------------------------------------------------------------


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can wait for."""
    for name, limit in {"ARRIVAL_S": 0.3, "IDLE_S": 1, "_LOOK_S": 0}.items():
        monkeypatch.setattr(server_module, name, limit)


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for five connections."""
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 5)


@pytest.mark.usefixtures("short_patience")
def test_client_that_sends_a_byte_at_a_time_is_given_up(served: Served) -> None:
    running = Running(served)
    with running.socket() as slow:
        slow.sendall(b"GET /v1/balance?userId=ada HTTP/1.1\r\nHost: x\r\nX: ")

        def is_given_up() -> bool:
            try:
                slow.sendall(b"x")
            except OSError:
                return True
            return False

        eventually(is_given_up)
    running.begin_stop()
    running.wait()


@pytest.mark.usefixtures("short_patience")
def test_idle_connection_is_closed(served: Served) -> None:
    running = Running(served)
    with running.socket() as idle:
        assert idle.recv(1) == b""
    running.begin_stop()
    running.wait()


@pytest.mark.usefixtures("few_connections")
def test_idle_connections_make_room_for_others(served: Served, ledger: FilledLedger) -> None:
    ledger.open("ada")
    running = Running(served)
    idle = [running.socket() for _ in range(12)]
    assert running.get(_BALANCE)[0] == 200
    for connection in idle:
        connection.close()
    running.begin_stop()
    running.wait()


@pytest.mark.usefixtures("few_connections")
def test_client_of_many_connections_loses_its_own(served: Served, ledger: FilledLedger) -> None:
    ledger.open("ada")
    running = Running(served)
    with running.socket("127.0.0.2") as kept, running.socket("127.0.0.3") as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        many = [running.socket() for _ in range(20)]
        assert all(connection.recv(1) == b"" for connection in many[:17])  # three have room beside the two
        for connection in (kept, slow):
            connection.sendall(b"" if connection is slow else b"GET /healthz HTTP/1.1\r\n")
            connection.sendall(b"Host: x\r\nConnection: close\r\n\r\n")
            assert received(connection)[0] == 200
    for connection in many:
        connection.close()
    running.begin_stop()
    running.wait()


@pytest.mark.usefixtures("few_connections")
def test_new_connection_closes_none_that_is_answered(running: Running, hang: Hang) -> None:
    asking = [running.connect() for _ in range(3)]
    for connection in asking:
        connection.request("GET", _BALANCE, headers=running.headers)
    hang.until_inside(1)
    idle = [running.socket() for _ in range(12)]
    assert running.get("/healthz")[0] == 200
    hang.end()
    responses = [connection.getresponse() for connection in asking]
    assert {response.status for response in responses} <= {200, 503}
    assert all(response.read() for response in responses)
    for connection in asking:
        connection.close()
    for waiting in idle:
        waiting.close()


@pytest.mark.usefixtures("short_patience")
def test_client_that_reads_nothing_holds_no_thread(served: Served) -> None:
    app = Flask(__name__)
    app.add_url_rule("/large", "large", view_func=lambda: bytes(40_000_000))
    app.add_url_rule("/small", "small", view_func=lambda: "{}")
    running = Running(replace(served, app=app), threads=1)
    with running.socket() as deaf:
        deaf.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert deaf.recv(1, socket.MSG_PEEK)  # it is being answered
        assert running.get("/small")[0] == 200
    running.begin_stop()
    running.wait()


def test_slow_clients_delay_nobody(running: Running) -> None:
    slow = [running.socket() for _ in range(20)]
    for connection in slow:
        connection.sendall(b"GET /v1/balance?userId=ada HTTP/1.1\r\n")
    assert running.get(_BALANCE)[0] == 200
    for connection in slow:
        connection.close()


# -- a ledger that hangs ----------------------------------------------------------------------------------


def test_server_says_how_it_is_while_the_ledger_hangs(running: Running, hang: Hang) -> None:
    asking = Asking(running, 1)
    hang.until_inside(1)
    for _ in range(5):
        status, problem = running.get(_BALANCE)
        assert (status, problem["code"]) == (503, "unavailable")
    assert running.get("/healthz")[1] == {"state": "live"}
    hang.end()
    assert [status for status, _ in asking.wait()] == [200]


def test_reports_leave_room_for_the_others(running: Running, hang: Hang) -> None:
    report = threading.Thread(target=lambda: running.get("/v1/usage?userId=ada"))
    report.start()
    hang.until_inside(1)
    running.served.service.before = lambda: None
    for _ in range(5):
        status, problem = running.get("/v1/history?userId=ada")
        assert (status, problem["code"]) == (429, "too_many_requests")
        assert running.get(_BALANCE)[0] == 200
    hang.end()
    report.join(_PATIENCE_S)
    assert running.get("/v1/history?userId=ada")[0] == 200


def test_clients_that_are_gone_leave_the_server_well(running: Running, hang: Hang) -> None:
    asking = Asking(running, 1)
    hang.until_inside(1)
    for _ in range(8):
        with running.socket() as gone:
            gone.sendall(f"GET {_BALANCE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    hang.end()
    assert len(asking.wait()) == 1
    assert running.get(_BALANCE)[0] == 200


# -- the stop ---------------------------------------------------------------------------------------------


def test_stop_answers_what_has_arrived_and_takes_no_more(running: Running, hang: Hang) -> None:
    connection = running.connect()
    connection.request("GET", _BALANCE, headers=running.headers)
    hang.until_inside(1)
    running.begin_stop()
    eventually(lambda: _is_refused(running))
    hang.end()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["userId"]) == (200, "ada")
    assert response.getheader("Connection") == "close"
    running.wait()


def test_stop_answers_requests_that_wait_for_a_thread(running: Running, hang: Hang) -> None:
    connections = [running.connect() for _ in range(_THREADS + SPARE_THREADS + 4)]
    for connection in connections:
        connection.request("GET", _BALANCE, headers=running.headers)
    hang.until_inside(1)
    running.begin_stop()
    eventually(lambda: _is_refused(running))
    hang.end()
    statuses = [connection.getresponse().status for connection in connections]
    assert set(statuses) <= {200, 503}
    running.wait()


def test_stop_closes_idle_connections_at_once(running: Running) -> None:
    connection = running.connect()
    connection.request("GET", _BALANCE, headers=running.headers)
    connection.getresponse().read()
    running.begin_stop()
    running.wait()
    connection.close()


def test_stop_does_not_wait_for_ever(running: Running, hang: Hang, caplog: pytest.LogCaptureFixture) -> None:
    asking = Asking(running, 1)
    hang.until_inside(1)
    running.begin_stop(0.1)
    running.wait()
    assert "1 connections are closed before their answer" in caplog.text
    hang.end()
    assert asking.wait() == []


def _is_refused(running: Running) -> bool:
    try:
        running.socket().close()
    except ConnectionRefusedError:
        return True
    return False
