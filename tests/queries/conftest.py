"""Fixtures for the tests of queries."""

from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import Engine

from tests.support.query_samples import NOW, asked_catalog
from worker.catalog import Catalog
from worker.queries import QueryService
from worker.queries.sources import Database, Sources

Asking = Callable[..., QueryService]


@pytest.fixture
def catalog() -> Catalog:
    """The packaged catalog with an empty tier."""
    return asked_catalog()


@pytest.fixture
def asking(engine: Engine, catalog: Catalog) -> Asking:
    """Make a service of queries at a time, by a catalog."""

    def service(now: datetime = NOW, catalog: Catalog = catalog, engine: Engine = engine) -> QueryService:
        return QueryService(Sources(Database(engine, engine), clock=lambda: now), catalog, clock=lambda: now)

    return service


@pytest.fixture
def service(asking: Asking) -> QueryService:
    """The service of queries of the test's database."""
    return asking()
