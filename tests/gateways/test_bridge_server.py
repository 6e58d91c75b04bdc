"""The bridge behind its own web server: what clients do to a connection, byte by byte."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import pytest

from tests.gateways.conftest import BridgeDoor, door_on, event_of
from tests.gateways.signing import stripe_header
from tests.support.fakes import FakeLink
from worker.gateways.bridge import WEBHOOK_MAX_BYTES
from worker.http.server import HEADERS_MAX, ServerLimits, WebServer
from worker.runtime.address import Address

PATIENCE_S = 30.0
PAID = json.dumps(event_of("stripe", "intent succeeded")).encode()


class Serving:
    """The bridge's application in its server, over a broker in memory."""

    def __init__(self, door: BridgeDoor, link: FakeLink) -> None:
        self.link = link
        self.server = WebServer(
            door.app,
            Address("127.0.0.1", 0),
            door.metrics,
            limits=ServerLimits(4, body_max=WEBHOOK_MAX_BYTES),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.server.poll(1.0)
        self.server.drain(5.0)
        self.server.close()

    def end(self) -> None:
        """Stop serving."""
        self._stop.set()
        with suppress(OSError):  # it may have looked at the stop by itself, and be closed
            self.server.pull_trigger()
        self._thread.join(PATIENCE_S)

    def socket(self) -> socket.socket:
        """Return an open connection."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE_S)

    def send(self, request: bytes, answers: int = 1) -> list[int]:
        """Send bytes; return the statuses of so many answers, fewer where the connection ends before."""
        with self.socket() as client:
            client.sendall(request)
            with client.makefile("rb") as stream:
                return [
                    status for _ in range(answers) if (status := _status(stream, request[:4])) is not None
                ]

    @property
    def published(self) -> int:
        """Number of commands that reached the broker."""
        return len(self.link.published)


def _status(stream: IO[bytes], method: bytes) -> int | None:
    """Read an answer; return its status. One to a HEAD has a length and no body."""
    line = stream.readline()
    if not line:
        return None
    length = 0
    while (header := stream.readline().strip().lower()) != b"":
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
    if method != b"HEAD":
        stream.read(length)
    return int(line.split()[1])


def request(
    body: bytes = PAID,
    *headers: str,
    path: str = "/webhooks/stripe",
    method: str = "POST",
    signature: str | None = None,
    length: bool = True,
) -> bytes:
    """Return the bytes of a request, with a good signature of ``body``."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Stripe-Signature: {signature or stripe_header(body)}"]
    lines += [*headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, size: int) -> bytes:
    """Return the body in chunks."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.fixture
def serving() -> Iterator[Serving]:
    """The bridge over a broker in memory."""
    link = FakeLink()
    with door_on(lambda: link) as door:
        serving = Serving(door, link)
        try:
            yield serving
        finally:
            serving.end()


@pytest.mark.parametrize(
    "type_", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_content_type_decides_nothing(serving: Serving, type_: str) -> None:
    """The signature covers the bytes; a form would be read by the web framework, and its bytes be gone."""
    assert serving.send(request(PAID, f"Content-Type: {type_}")) == [200]
    assert serving.published == 1


@pytest.mark.parametrize("size", [1, 100, 1_000_000])
def test_body_in_chunks_is_taken(serving: Serving, size: int) -> None:
    head, _, _ = request(PAID, "Transfer-Encoding: chunked", length=False).partition(b"\r\n\r\n")
    assert serving.send(head + b"\r\n\r\n" + chunked(PAID, size)) == [200]


def test_chunked_body_that_is_too_long_is_refused(serving: Serving) -> None:
    head, _, _ = request(PAID, "Transfer-Encoding: chunked", length=False).partition(b"\r\n\r\n")
    assert serving.send(head + b"\r\n\r\n" + chunked(b" " * (WEBHOOK_MAX_BYTES + 2), 65_536)) == [413]


def test_compressed_body_counts_as_its_bytes(serving: Serving) -> None:
    body = gzip.compress(PAID)
    assert serving.send(request(body, "Content-Encoding: gzip")) == [400]
    assert serving.published == 0


def test_second_signature_header_is_refused(serving: Serving) -> None:
    assert serving.send(request(PAID, f"Stripe-Signature: {stripe_header(PAID)}")) == [400]
    assert serving.published == 0


def test_two_lengths_are_refused(serving: Serving) -> None:
    assert serving.send(request(PAID, "Content-Length: 1"))[:1] == [400]
    assert serving.published == 0


def test_length_beside_chunks_publishes_nothing_twice(serving: Serving) -> None:
    head = request(PAID, "Transfer-Encoding: chunked").partition(b"\r\n\r\n")[0]
    statuses = serving.send(head + b"\r\n\r\n" + chunked(PAID, 100))
    assert serving.published == statuses.count(200) <= 1


def test_headers_that_are_too_long_are_refused(serving: Serving) -> None:
    assert serving.send(request(PAID, f"X-Long: {'a' * HEADERS_MAX}")) == [431]


def test_requests_behind_each_other_on_one_connection_are_all_answered(serving: Serving) -> None:
    wrong = request(PAID, signature=stripe_header(b"other"))
    assert serving.send(request() + wrong + request(), answers=3) == [200, 400, 200]
    assert serving.published == 2


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_publish_nothing(serving: Serving, method: str) -> None:
    assert serving.send(request(method=method)) == [405]
    assert serving.published == 0


@pytest.mark.parametrize(
    "path",
    [
        "/webhooks/stripe/",
        "/webhooks/./stripe",
        "/webhooks/../webhooks/stripe",
        "/WEBHOOKS/STRIPE",
        "/webhooks/stripe%00",
        "/webhooks/stripe;x=1",
        "/",
    ],
)
def test_path_that_only_looks_alike_is_not_found(serving: Serving, path: str) -> None:
    assert serving.send(request(path=path)) == [404]
    assert serving.published == 0


@pytest.mark.parametrize(
    "path", ["//webhooks/stripe", "/webhooks%2fstripe", "http://elsewhere/webhooks/stripe"]
)
def test_path_that_is_the_same_by_the_rules_of_http_needs_a_signature_as_well(
    serving: Serving, path: str
) -> None:
    assert serving.send(request(path=path)) == [200]
    assert serving.send(request(path=path, signature=stripe_header(b"other"))) == [400]
    assert serving.published == 1


def test_slow_client_holds_no_thread_and_is_ended(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.http.server.ARRIVAL_S", 0.5)
    slow = [serving.socket() for _ in range(20)]
    for client in slow:
        client.sendall(request()[:-1])
    assert serving.send(request()) == [200]
    for client in slow:
        assert client.recv(1) == b""  # closed within the bound of the server
        client.close()
    assert serving.published == 1


def test_body_with_other_bytes_of_the_same_value_is_refused(serving: Serving) -> None:
    signature = stripe_header(PAID)
    again = json.dumps(json.loads(PAID), separators=(",", ":")).encode()
    assert serving.send(request(again, signature=signature)) == [400]


def test_body_in_any_script_is_taken_as_its_bytes(serving: Serving) -> None:
    event = event_of("stripe", "intent succeeded")
    named = {**event, "data": {"object": {**event["data"]["object"], "description": "Лампа 灯 💡"}}}
    for body in (json.dumps(named).encode(), json.dumps(named, ensure_ascii=False).encode()):
        assert serving.send(request(body)) == [200]


def test_webhook_that_is_refused_costs_no_more_than_one_that_is_taken(serving: Serving) -> None:
    body = PAID[:-1] + b" " * 200_000 + b"}"
    taken, refused = request(body), request(body, signature=stripe_header(b"other"))

    def seconds(sent: bytes) -> float:
        began = time.process_time()
        for _ in range(20):
            serving.send(sent)
        return time.process_time() - began

    costs = [(seconds(refused), seconds(taken)) for _ in range(3)]
    assert min(refused for refused, _ in costs) < 1.5 * min(taken for _, taken in costs), costs
