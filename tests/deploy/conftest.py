"""Shared fixtures of the tests of deployments."""

from pathlib import Path

import pytest

from tests.support.installation import make_secrets


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Folder with a password for each login."""
    return make_secrets(tmp_path / "secrets")
