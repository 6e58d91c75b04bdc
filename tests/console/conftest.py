"""Fixtures of the console: a visitor without a browser or a broker, and a served console for a browser."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask import Flask

from tests.console import sample_data
from tests.console.visitor import Visitor
from tests.support.forked_python import ForkedPython
from tests.support.processes import ROOT, worker_environment
from worker.bootstrap import Application
from worker.cli.statement import as_csv
from worker.console.app import create_app
from worker.console.context import ConsoleContext
from worker.console.guard import AccessGuard
from worker.console.sign_in_limit import SignInLimits
from worker.console.users import Role, Users, write_user
from worker.http.clients import TrustedProxies
from worker.settings import load_settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: An address on which nothing listens.
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"

PASSWORD = "correct horse battery"


@pytest.fixture
def application_(sqlite_url: str) -> Iterator[Application]:
    """Application on a SQLite ledger, without a broker."""
    application = Application(load_settings(broker_url=NOWHERE, database_url=sqlite_url))
    yield application
    application.engine.dispose()


@pytest.fixture(scope="session")
def hashed_users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of users: ann is an operator, vic a viewer; made once, as hashing is slow."""
    path = tmp_path_factory.mktemp("console") / "users"
    write_user(path, "ann", Role.OPERATOR, PASSWORD)
    write_user(path, "vic", Role.VIEWER, PASSWORD)
    return path


@pytest.fixture
def users_file(hashed_users_file: Path, tmp_path: Path) -> Path:
    """Copy of ``hashed_users_file`` that a test may change."""
    return Path(shutil.copy(hashed_users_file, tmp_path / "users"))


def app_on(
    application: Application,
    users: Users | None = None,
    *,
    read_only: bool = False,
    proxies: Sequence[str] = (),
    through_https: bool = False,
) -> Flask:
    """Return the console over ``application``; with ``users`` it requires a sign-in."""
    guard = AccessGuard(
        users,
        "127.0.0.1",
        read_only=read_only,
        proxies=TrustedProxies.parse(proxies),
        through_https=through_https,
    )
    context = ConsoleContext(application, guard, as_csv)
    app = create_app(context, b"a secret of the tests", through_https=through_https)
    app.testing = True
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


@pytest.fixture
def visitor(application_: Application) -> Visitor:
    """Operator at this machine."""
    return Visitor(app_on(application_).test_client())


@pytest.fixture
def guarded(application_: Application, users_file: Path) -> Flask:
    """Console that requires a sign-in."""
    return app_on(application_, Users(users_file))


@pytest.fixture
def still_limits(guarded: Flask) -> SignInLimits:
    """Limits of ``guarded``, for which time stands still."""
    guard: AccessGuard = guarded.extensions["billing"].guard
    guard.sign_ins = SignInLimits(clock=lambda: 0.0)
    return guard.sign_ins


@pytest.fixture
def filled(application_: Application) -> Application:
    """Application with the small set of ``sample_data``."""
    sample_data.small(application_.engine, application_.service(), application_.catalog, datetime.now(UTC))
    return application_


@pytest.fixture(scope="module")
def driver() -> "Iterator[Chrome]":
    """Browser for all tests of a module."""
    from tests.console.browser import start_browser

    chrome = start_browser()
    yield chrome
    chrome.quit()


@pytest.fixture
def open_console(application: Application) -> Iterator[Callable[..., str]]:
    """Start the console as an operator does, and return its address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> str:
        process = ForkedPython(
            *("worker", "console", "--listen", "127.0.0.1:0", *arguments),
            env={**worker_environment(application.settings), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            cwd=os.fspath(ROOT),
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith("console on http://"), line
        return line.removeprefix("console on ").rstrip("/")

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()
