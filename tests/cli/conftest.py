"""The command line without servers, on a ledger, on a broker, and on both."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import DeductUsage, PaymentSucceeded
from tests.cli.console import Cli, FilledLedger
from worker.ledger.engine import ledger_engine


@pytest.fixture
def bare_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line without any setting, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, {})


@pytest.fixture
def ledger_cli(bare_cli: Cli, sqlite_url: str) -> Cli:
    """The command line on a migrated SQLite ledger, without a broker."""
    bare_cli.environment["BILLING_DATABASE_URL"] = sqlite_url
    return bare_cli


@pytest.fixture
def broker_cli(bare_cli: Cli, broker_url: str) -> Cli:
    """The command line on a RabbitMQ with the topology, without a ledger."""
    bare_cli.environment["BILLING_BROKER_URL"] = broker_url
    return bare_cli


@pytest.fixture
def publishing_cli(broker_cli: Cli, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line on a RabbitMQ, with a ledger for the activity log that lies elsewhere."""
    ledger = shutil.copy(sqlite_template, tmp_path_factory.mktemp("elsewhere") / "ledger.sqlite3")
    broker_cli.environment["BILLING_DATABASE_URL"] = f"sqlite:///{ledger}"
    return broker_cli


@pytest.fixture
def cli(ledger_cli: Cli, broker_url: str) -> Cli:
    """The command line on RabbitMQ and a migrated SQLite ledger."""
    ledger_cli.environment["BILLING_BROKER_URL"] = broker_url
    return ledger_cli


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[FilledLedger]:
    """The ledger that ``ledger_cli`` reads."""
    engine = ledger_engine(sqlite_url)
    yield FilledLedger(engine)
    engine.dispose()


@pytest.fixture
def paying_ann(ledger: FilledLedger) -> None:
    """Account of ann, who got 10,000 tokens, bought 275,000, and used 1,500 on two features."""
    ledger.open("ann")
    ledger.apply(
        PaymentSucceeded(
            reference_id="pay", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
        ),
        DeductUsage(reference_id="d-1", user_id="ann", tokens=1_000, feature="chat"),
        DeductUsage(reference_id="d-2", user_id="ann", tokens=500, feature="search"),
        DeductUsage(reference_id="d-3", user_id="ann", tokens=10**9),
    )
