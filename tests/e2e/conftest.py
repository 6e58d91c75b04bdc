"""Fixtures of the tests from end to end."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.http import TokenScope
from tests.support.serve_process import ServeProcess, Serving
from worker.bootstrap import utc_now
from worker.http.tokens import add_token


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Start the server on a database; none outlives the test."""
    path = tmp_path / "tokens"
    secret = add_token(path, "app", [TokenScope.ACCOUNTS], utc_now())
    started: list[ServeProcess] = []

    def start(database_url: str, **settings: Any) -> ServeProcess:
        started.append(ServeProcess(database_url, path, secret, **settings))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def quick_steering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker look and write ten times as often."""
    monkeypatch.setattr("worker.presence._LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("worker.presence._WRITE_EVERY_S", 0.3)
    monkeypatch.setattr("worker.lanes.returning._AGAIN_AFTER", timedelta(seconds=0.2))
    monkeypatch.setattr("worker.lanes.returning._SETTLED_AFTER", timedelta(seconds=0.5))
