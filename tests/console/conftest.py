"""The console without a browser: a visitor with cookies, on a ledger, without a broker."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from tests.console import furnishing
from tests.console.visiting import Visitor
from worker.bootstrap import Application
from worker.cli.statement import as_csv
from worker.console.app import create_app
from worker.console.guard import Guard
from worker.console.parts import Parts
from worker.console.people import People, Role, write_person
from worker.settings import load_settings

#: Where nobody listens.
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
def hashed_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann may act, and Vic may look. Passwords are slow to hash: once for all tests."""
    path = tmp_path_factory.mktemp("console") / "people"
    write_person(path, "ann", Role.OPERATOR, PASSWORD)
    write_person(path, "vic", Role.VIEWER, PASSWORD)
    return path


@pytest.fixture
def people_file(hashed_people: Path, tmp_path: Path) -> Path:
    """The file of ``hashed_people``, for a test to change."""
    return Path(shutil.copy(hashed_people, tmp_path / "people"))


def app_on(application: Application, people: People | None = None, *, read_only: bool = False) -> Flask:
    """The console over ``application``; with ``people`` they sign in."""
    parts = Parts(application, Guard(people, "127.0.0.1", read_only=read_only), as_csv)
    app = create_app(parts, b"a secret of the tests")
    app.testing = True
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


@pytest.fixture
def visitor(application_: Application) -> Visitor:
    """Whoever sits at the machine: an operator."""
    return Visitor(app_on(application_).test_client())


@pytest.fixture
def guarded(application_: Application, people_file: Path) -> Flask:
    """The console that people sign in to."""
    return app_on(application_, People(people_file))


@pytest.fixture
def furnished(application_: Application) -> Application:
    """The small world."""
    furnishing.small(application_.engine, application_.office(), application_.catalog, datetime.now(UTC))
    return application_
