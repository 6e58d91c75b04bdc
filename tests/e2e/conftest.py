"""Fixtures of the tests from end to end."""

from collections.abc import Iterator
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
