"""Port of a process for machines: ``/metrics``, ``/livez`` and ``/readyz``, and nothing else."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from worker.runtime.process_health import ProcessHealth

LIVE_PATH, READY_PATH, METRICS_PATH = "/livez", "/readyz", "/metrics"
#: Time in which a request must have arrived.
_ARRIVAL_S = 10.0
_METHODS = ("GET", "HEAD")

Answer = tuple[HTTPStatus, dict[str, Any]]


class ProbesApp:
    """WSGI application of the port. ``metrics`` answers ``/metrics``."""

    def __init__(self, metrics: WSGIApplication, health: ProcessHealth) -> None:
        self._metrics, self._health = metrics, health
        self._answers: dict[str, Callable[[], Answer]] = {LIVE_PATH: self._live, READY_PATH: self._ready}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == METRICS_PATH:
            return self._metrics(environ, start_response)
        status, answer = self._answer(path, environ.get("REQUEST_METHOD", ""))
        body = json.dumps(answer).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]

    def _answer(self, path: str, method: str) -> Answer:
        if path not in self._answers:
            return HTTPStatus.NOT_FOUND, {"paths": [METRICS_PATH, *self._answers]}
        if method not in _METHODS:
            return HTTPStatus.METHOD_NOT_ALLOWED, {"methods": list(_METHODS)}
        return self._answers[path]()

    def _live(self) -> Answer:
        if self._health.is_live:
            return HTTPStatus.OK, {"state": "live"}
        return HTTPStatus.SERVICE_UNAVAILABLE, {"state": "stuck", "obstacles": [self._stuck]}

    def _ready(self) -> Answer:
        obstacles: Sequence[str] = self._health.obstacles(probed=True)
        if not self._health.is_live:
            obstacles = [self._stuck, *obstacles]
        if obstacles:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"state": "not ready", "obstacles": obstacles}
        return HTTPStatus.OK, {"state": "ready"}

    @property
    def _stuck(self) -> str:
        return f"its loop has not turned for {self._health.live_s:g} s"


class _Server(ThreadingMixIn, WSGIServer):
    """Server with a thread a request, so that a probe that waits for the ledger holds up no scrape."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Handler that logs no request, and waits for none without end."""

    timeout = _ARRIVAL_S

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing: probes come every few seconds."""


def serve_probes(host: str, port: int, app: WSGIApplication) -> None:
    """Serve ``app`` in a thread that lives as long as the process. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    server_class = type("_ServerOfFamily", (_Server,), {"address_family": family})
    server: WSGIServer = make_server(str(address[0]), port, app, server_class, _Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
