"""Process of ``serve``, started as an operator starts it."""

import http.client
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.forked_python import ForkedPython
from tests.support.processes import ROOT, worker_environment
from tests.support.waiting import PATIENCE_S
from worker.settings import load_settings


class ServeProcess:
    """Process of ``serve``, and a caller's ways to it."""

    def __init__(self, database_url: str, tokens_file: Path, secret: str, **settings: Any) -> None:
        found = load_settings(database_url=database_url, http_tokens=tokens_file, **settings)
        self.headers = {"Authorization": f"Bearer {secret}"}
        self.process = ForkedPython(
            *("worker", "serve", "--listen", "127.0.0.1:0"),
            env={**worker_environment(found), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode().strip()
        assert line.startswith("serving on "), line
        self.port = urlsplit(line.removeprefix("serving on ")).port or 0

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, which opens with its first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def get(self, path: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, Any]:
        """Ask on ``connection``, or on one of its own; return status and body."""
        own = connection or self.connect()
        own.request("GET", path, headers=self.headers)
        response = own.getresponse()
        body = json.loads(response.read())
        if connection is None:
            own.close()
        return response.status, body

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the log."""
        _, log = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log.decode()


#: Start the server on a database, with other settings by name.
Serving = Callable[..., ServeProcess]
