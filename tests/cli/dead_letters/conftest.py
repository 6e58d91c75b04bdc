"""Ledger of the tests of ``dead-letters``."""

import pytest

from tests.cli.console import FilledLedger


@pytest.fixture(autouse=True)
def ann(ledger: FilledLedger) -> None:
    """Account of ann, to which mended commands are applied."""
    ledger.open("ann")
