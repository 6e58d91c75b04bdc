"""Fixtures of the console without a browser: a visitor with cookies, a ledger, no broker."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from tests.console import sample_data
from tests.console.visitor import Visitor
from worker.bootstrap import Application
from worker.cli.statement import as_csv
from worker.console.app import create_app
from worker.console.context import ConsoleContext
from worker.console.guard import AccessGuard
from worker.console.users import Role, Users, write_user
from worker.settings import load_settings

#: An address on which nothing listens.
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"

PASSWORD = "correct horse battery"

Open = Callable[..., Visitor]


@pytest.fixture
def application_(sqlite_url: str) -> Iterator[Application]:
    """An application on a SQLite ledger, without a broker."""
    application = Application(load_settings(broker_url=NOWHERE, database_url=sqlite_url))
    yield application
    application.engine.dispose()


@pytest.fixture(scope="session")
def hashed_users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of users: ann is an operator, vic a viewer. Hashing is slow, so it is done once for all tests."""
    path = tmp_path_factory.mktemp("console") / "users"
    write_user(path, "ann", Role.OPERATOR, PASSWORD)
    write_user(path, "vic", Role.VIEWER, PASSWORD)
    return path


@pytest.fixture
def users_file(hashed_users_file: Path, tmp_path: Path) -> Path:
    """Copy of ``hashed_users_file`` that a test may change."""
    return Path(shutil.copy(hashed_users_file, tmp_path / "users"))


def app_on(application: Application, users: Users | None = None, *, read_only: bool = False) -> Flask:
    """Return the console over ``application``; with ``users`` it requires a sign-in."""
    context = ConsoleContext(application, AccessGuard(users, "127.0.0.1", read_only=read_only), as_csv)
    app = create_app(context, b"a secret of the tests")
    app.testing = True
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


@pytest.fixture
def visitor(application_: Application) -> Visitor:
    """Visitor from this machine, who is an operator."""
    return Visitor(app_on(application_).test_client())


@pytest.fixture
def guarded(application_: Application, users_file: Path) -> Flask:
    """Console that requires a sign-in."""
    return app_on(application_, Users(users_file))


@pytest.fixture
def filled(application_: Application) -> Application:
    """Application with the small set of ``sample_data``."""
    sample_data.small(application_.engine, application_.service(), application_.catalog, datetime.now(UTC))
    return application_
