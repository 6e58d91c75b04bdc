"""Fixtures for the tests of these queries."""

import pytest

from tests.support.query_samples import asked_catalog
from worker.catalog import Catalog


@pytest.fixture
def catalog() -> Catalog:
    """The packaged catalog, with a tier that grants nothing."""
    return asked_catalog()
