"""TEMPORARY stand-in, written by the helper for queries and audit; delete it when tests/conftest.py is there.

SQLite always; PostgreSQL too where QA_PG_URL names a server (``postgresql://postgres@127.0.0.1:54399``).
"""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from schemas import Command
from worker.catalog import Catalog, load_catalog
from worker.core import Answer, decide
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger

_PG = os.environ.get("QA_PG_URL")


@pytest.fixture
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture(params=["sqlite", *(["postgresql"] if _PG else [])])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else _database()
    engine = ledger_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


def _database() -> str:
    name = f"t_{uuid.uuid4().hex}"
    admin = create_engine(f"{_PG}/postgres".replace("://", "+psycopg2://"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return f"{_PG}/{name}"


@pytest.fixture
def apply(engine: Engine, catalog: Catalog) -> Callable[..., Any]:
    def run(*commands: Command, now: datetime | None = None) -> list[Answer]:
        moment = now or datetime.now(UTC)
        with Ledger(engine).begin() as books:
            known = books.load(commands, moment)
            plan = decide(commands, known, moment, catalog)
            books.write(plan, known, moment)
        return plan.answers

    return run
