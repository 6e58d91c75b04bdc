"""Fixtures of the HTTP door: callers with and without a token, on a ledger in a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from schemas import Limits, Query, QueryAnswer
from schemas.http import TokenScope
from tests.cli.console import FilledLedger
from worker.bootstrap import Application, utc_now
from worker.contract.files import FOLDER
from worker.http.access import Access
from worker.http.app import Door, create_app
from worker.http.asking import AnswersQueries, Asker
from worker.http.readiness import readiness_of
from worker.http.tokens import Tokens, add_token
from worker.settings import load_settings

#: Codes that the packaged contract knows of problems over HTTP.
_CODES = json.loads((FOLDER / "codes.json").read_text(encoding="utf-8"))
CODES_OF_CONTRACT = {*_CODES["problemCodes"], *_CODES["requestCodes"]}
#: An address on which nothing listens.
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@dataclass
class Watched:
    """Source of answers between the door and the ledger; a test may put another one in."""

    service: AnswersQueries
    asked: list[Query] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Answer as the service does, after ``before``."""
        self.asked.extend(queries)
        self.calls.append(len(queries))
        self.before()
        return self.service.answer(queries)


class Caller:
    """Caller of the door with a token, or without one."""

    def __init__(self, app: Flask, token: str | None) -> None:
        self._client = app.test_client()
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(self, path: str, status: int = 200, *, method: str = "GET", **more: Any) -> TestResponse:
        """Send a request; return the response, which must have ``status``."""
        headers = {**self.headers, **more.pop("headers", {})}
        response = self._client.open(path, method=method, headers=headers, **more)
        assert response.status_code == status, f"{response.status_code}: {response.text[:400]}"
        return response

    def problem(self, path: str, status: int, **more: Any) -> dict[str, Any]:
        """Send a request that must meet a problem; return it."""
        response = self.get(path, status, **more)
        assert response.mimetype == "application/problem+json"
        assert response.headers["Cache-Control"] == "no-store"
        problem: dict[str, Any] = response.get_json()
        assert problem["status"] == status
        assert problem["detail"]
        assert problem["code"] in CODES_OF_CONTRACT
        return problem


@dataclass
class Served:
    """The door over a ledger in a file, with its parts."""

    app: Flask
    application: Application
    service: Watched
    tokens_file: Path
    secrets: dict[str, str]
    stopping: list[bool]

    def caller(self, token: str | None) -> Caller:
        """Return a caller with this token."""
        return Caller(self.app, token)


@pytest.fixture
def application_(sqlite_url: str) -> Iterator[Application]:
    """Application on a SQLite ledger, without a broker."""
    application = Application(load_settings(broker_url=NOWHERE, database_url=sqlite_url))
    yield application
    application.engine.dispose()


@pytest.fixture
def ledger(application_: Application) -> FilledLedger:
    """The ledger that the door reads."""
    return FilledLedger(application_.engine)


@pytest.fixture
def served(application_: Application, tmp_path: Path) -> Served:
    """The door, with a token for accounts (``app``), one for statistics (``reports``), one for both."""
    path = tmp_path / "tokens"
    scopes = {"app": [TokenScope.ACCOUNTS], "reports": [TokenScope.STATS], "all": list(TokenScope)}
    secrets = {name: add_token(path, name, those, utc_now()) for name, those in scopes.items()}
    service, stopping = Watched(application_.queries()), [False]
    metrics = application_.metrics
    app = create_app(
        Door(
            access=Access(Tokens(path)),
            asker=Asker(service, 1, metrics.outages.labels("database").inc, wait_s=0.1),
            limits=Limits(max_quantity=application_.settings.max_quantity),
            readiness=readiness_of(service, application_.require_readable_schema, application_.clock),
            metrics=metrics,
            is_stopping=lambda: stopping[0],
        )
    )
    return Served(app, application_, service, path, secrets, stopping)


@pytest.fixture
def app(served: Served) -> Caller:
    """Caller with the scope ``accounts``."""
    return served.caller(served.secrets["app"])


@pytest.fixture
def reports(served: Served) -> Caller:
    """Caller with the scope ``stats``."""
    return served.caller(served.secrets["reports"])


@pytest.fixture
def stranger(served: Served) -> Caller:
    """Caller without a token."""
    return served.caller(None)
