"""Web server of the HTTP door, the bridge and the console: its limits, its time limits, and its end.

waitress answers what it can't parse by itself, takes no connection while as many as it may have do nothing,
and ends within five seconds whatever is in flight. Here all three go another way: such an answer is in the
form of the others, a connection that waits makes room for a new one, and a stop answers what has arrived.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, cast

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask

from schemas import ProblemCode
from worker.errors import ConfigurationError
from worker.http.clients import network_of
from worker.http.problems import Problem
from worker.metrics import Metrics
from worker.runtime.address import Address
from worker.runtime.stop import SignalStop

log = logging.getLogger(__name__)

#: Threads beside those that are asked for: they say how it is while the ledger hangs.
SPARE_THREADS = 2
#: Most bytes of a request: its line and its headers.
HEADERS_MAX = 16 * 1024
#: Most connections. One more closes one that waits; while none waits, further ones queue in the system.
CONNECTIONS_MAX, _BACKLOG = 200, 128
#: Sockets of the server's own: the one that listens, and the one that wakes it up.
_OWN_SOCKETS = 2
#: Seconds in which a request must have arrived, and after which an idle connection is closed. The latter is
#: longer than the 60 s of usual load balancers: else they send a request into a connection that just closes.
ARRIVAL_S, IDLE_S = 10.0, 75
#: Bytes of a body that has arrived, for which a request may take a second more.
_BODY_BYTES_A_SECOND = 100_000
#: Seconds without a byte taken after which a client that reads its answer makes room for others.
_SLOW_READER_S = 5.0
#: Seconds that a stop waits for what is in flight: longer than a statement of a query may take (15), and
#: shorter than the grace of ``SignalStop``.
DRAIN_S = 18.0
_POLL_S, _LOOK_S = 1.0, 2


#: Headers and body of the answer to what never reaches the application.
Refusal = Callable[[Problem], tuple[Mapping[str, str], bytes]]


def as_problem(problem: Problem) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a problem, for callers that are programs."""
    return problem.all_headers(), problem.to_json()


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of a server: ``threads`` work on requests; a request has so many bytes at most."""

    threads: int
    body_max: int = 0
    headers_max: int = HEADERS_MAX


def serve(
    app: Flask,
    address: Address,
    stop: SignalStop,
    metrics: Metrics,
    *,
    limits: ServerLimits,
    on_listening: Callable[[str], None],
    refusal: Refusal = as_problem,
    drain_s: float = DRAIN_S,
    turned: Callable[[], None] = lambda: None,
) -> None:
    """Serve ``app`` until ``stop``; then answer what has arrived, for at most ``drain_s``, and return.

    A few spare threads work beside those of ``limits``. ``on_listening`` gets the URL; ``refusal`` forms the
    answer to what is no request; ``turned`` is called at least once a second. Raises ConfigurationError where
    the address can't be bound.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line a request while one waits
    limits = replace(limits, threads=limits.threads + SPARE_THREADS)
    try:
        server = WebServer(app, address, metrics, limits=limits, refusal=refusal)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {address.host}:{address.port}: {error.strerror or error}; "
            "choose another with --listen"
        ) from error
    stop.on_request(server.pull_trigger)
    on_listening(Address(address.host, server.port).url)
    try:
        while not stop.requested:
            server.poll(_POLL_S)
            turned()
        server.drain(drain_s)
    finally:
        server.close()


class _Task(WSGITask):
    """Request that the application answers."""

    def build_response_header(self) -> bytes:
        """Return status and headers; once the server stops, with the end of the connection."""
        if cast(WebServer, self.channel.server).is_stopping:
            self.set_close_on_finish()
        return super().build_response_header()


class _ProblemTask(ErrorTask):
    """Request that is none, or too large."""

    def execute(self) -> None:
        """Write the problem. It says nothing of the request: a broken header may be the token's."""
        status = HTTPStatus(cast(Any, self.request).error.code)
        server = cast(WebServer, self.channel.server)
        problem = Problem(status, _code(status), _detail(status, server.limits))
        server.count(status)
        headers, body = server.refusal(problem)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers = [*self.response_headers, *headers.items()]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def _code(status: HTTPStatus) -> ProblemCode:
    return ProblemCode.UNPROCESSABLE if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ProblemCode.MALFORMED


def _detail(status: HTTPStatus, limits: ServerLimits) -> str:
    if status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
        return f"Line and headers have at most {limits.headers_max} bytes."
    if limits.body_max and status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return f"The body is longer than {limits.body_max} bytes."
    return _DETAILS.get(status, "This is no request of HTTP/1.1.")


_DETAILS: Mapping[HTTPStatus, str] = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "No body is taken: give the query as parameters of a GET.",
    HTTPStatus.NOT_IMPLEMENTED: "No body is taken, and no Transfer-Encoding.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server failed on this request; operators have it in the log.",
}


class _Channel(HTTPChannel):
    """Connection of a client, with the time when its present request began to arrive."""

    task_class = _Task
    error_task_class = _ProblemTask
    began = 0.0

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:  # noqa: A002 - waitress's
        self.network = network_of(addr[0])
        self._unread: tuple[float, float] | None = None  # the last activity, and the first look after it
        super().__init__(server, sock, addr, adj, map=map)

    def received(self, data: bytes) -> bool:
        """Take what has arrived."""
        if self.request is None:
            self.began = time.time()
        return super().received(data)

    @property
    def is_idle(self) -> bool:
        """True where no request arrives, is answered, or has an answer on the way."""
        return not self.requests and self.request is None and not self.total_outbufs_len

    def is_late(self, now: float) -> bool:
        """Return True where a request takes too long to arrive: a client may send a byte a second."""
        if self.request is None or self.requests:
            return False
        return now - self.began > ARRIVAL_S + self.request.body_bytes_received / _BODY_BYTES_A_SECOND

    def can_make_room(self, now: float) -> bool:
        """Return True where the client is waited for: for a request, for the rest of one, or to read."""
        is_reading = self.total_outbufs_len and now - self.last_activity < _SLOW_READER_S
        return not self.requests and not is_reading

    def is_stuck(self, now: float) -> bool:
        """Return True where the client takes nothing of its answer; a thread may wait for it.

        The time runs from the first look at which the rest of it waited, not from the last activity: the
        request may have waited long for a thread.
        """
        if not self.total_outbufs_len:
            self._unread = None
        elif self._unread is None or self._unread[0] != self.last_activity:
            self._unread = (self.last_activity, now)
        return self._unread is not None and now - self._unread[1] > IDLE_S


class WebServer(TcpWSGIServer):
    """Server of one address, run by ``poll`` and ``drain``."""

    channel_class = _Channel

    def __init__(
        self,
        app: Flask,
        address: Address,
        metrics: Metrics,
        *,
        limits: ServerLimits,
        refusal: Refusal = as_problem,
    ) -> None:
        bound = address.bind()
        self.port: int = bound.getsockname()[1]
        self.is_stopping = False
        self.limits, self.refusal = limits, refusal
        self._metrics = metrics
        self._sockets: dict[int, Any] = {}
        options: dict[str, Any] = {
            "sockets": [bound],
            "threads": limits.threads,
            "ident": None,
            "backlog": _BACKLOG,
            "connection_limit": CONNECTIONS_MAX + _OWN_SOCKETS + 1,  # the last takes the place of another
            "channel_timeout": IDLE_S,
            "cleanup_interval": _LOOK_S,
            "max_request_header_size": limits.headers_max,
            "max_request_body_size": limits.body_max + 1,  # waitress refuses as many bytes as that
            "channel_request_lookahead": 1,  # to see that a client is gone while its request waits
            "asyncore_use_poll": True,
            "log_socket_errors": False,
            "clear_untrusted_proxy_headers": False,  # the application judges them
        }
        super().__init__(
            app.wsgi_app,
            self._sockets,
            _sock=bound,
            adj=Adjustments(**options),
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
            bind_socket=False,
        )

    @property
    def channels(self) -> list[_Channel]:
        """Open connections."""
        return list(cast(dict[int, _Channel], self.active_channels).values())

    def count(self, status: HTTPStatus) -> None:
        """Count a request that has not reached the application."""
        self._metrics.http_requests.labels("other", status.value).inc()

    def poll(self, seconds: float) -> None:
        """Do what there is to do, or wait for it."""
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._sockets, count=1)

    def maintenance(self, now: float) -> None:
        """Close connections that are idle for long, and those whose client doesn't send or read."""
        super().maintenance(cast(int, now))
        for channel in self.channels:
            if channel.is_late(now):
                channel.will_close = True
            elif channel.is_stuck(now):
                channel.handle_close()  # waitress would wait until the client takes a byte, to close then

    def handle_accept(self) -> None:
        """Accept a connection; where there is one too many, close another that waits for its client."""
        super().handle_accept()
        if len(self.channels) > CONNECTIONS_MAX:
            self._make_room(time.time())

    def _make_room(self, now: float) -> None:
        """Close the longest idle connection of the client that has the most.

        So somebody who opens hundreds of connections and sends nothing loses their own, and nobody else's.
        """
        counts = Counter(channel.network for channel in self.channels)
        waiting = [channel for channel in self.channels if channel.can_make_room(now)]
        if waiting:
            max(waiting, key=lambda channel: (counts[channel.network], -channel.last_activity)).handle_close()

    def drain(self, seconds: float) -> None:
        """Take no more connections, answer the requests that have arrived, then close all."""
        self.is_stopping = True
        self._accept_all()
        wasyncore.dispatcher.close(self)  # the listening socket alone: threads still wake this one up
        deadline = time.monotonic() + seconds
        while (channels := self.channels) and time.monotonic() < deadline:
            self.poll(0.05)
            for channel in channels:
                if channel.is_idle:
                    channel.will_close = True
        if left := len(self.channels):
            log.warning("%d connections are closed before their answer", left)
        self.task_dispatcher.shutdown(timeout=1)

    def _accept_all(self) -> None:
        """Accept the connections that wait in the system's queue: it would reset them."""
        before = -1
        while (count := len(self.channels)) > before:
            before = count
            self.handle_accept()

    def close(self) -> None:
        """Close everything."""
        super().close()
        wasyncore.close_all(self._sockets, ignore_all=True)
