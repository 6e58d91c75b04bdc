"""``config``: settings with their sources, without secrets, and the differences from workers that run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.cli.console import Cli
from worker.bootstrap import utc_now
from worker.ledger.engine import ledger_engine
from worker.ledger.workers import KnownWorker, WorkerKind, Workers

SECRET = "s3cr3t-Pa55"


def test_config_shows_each_setting_with_its_default_and_its_source(bare_cli: Cli) -> None:
    Path(".env").write_text("BILLING_PREFETCH=12\n")
    ended = bare_cli("config", BILLING_BATCH_SIZE="11", BILLING_BROKER_URL=f"amqp://app:{SECRET}@mq/")
    assert ended.code == 0, ended.all
    rows = {row[0]: row[1:] for row in ended.rows}
    assert rows["setting"] == ["value", "default", "from"]
    assert rows["BILLING_BATCH_SIZE"] == ["11", "500", "environment"]
    assert rows["BILLING_PREFETCH"] == ["12", "1500", ".env"]
    assert rows["BILLING_TRIES"] == ["3", "3", "default"]
    assert rows["BILLING_BROKER_URL"][0] == "amqp://app:***@mq/"
    assert SECRET not in ended.all


def test_config_shows_what_is_changed_alone(bare_cli: Cli) -> None:
    ended = bare_cli("config", "--changed", BILLING_TRIES="3", BILLING_WITH_SCHEDULER="1")
    assert [row[:2] for row in ended.rows[1:]] == [["BILLING_WITH_SCHEDULER", "true"]]


def test_config_as_json_has_the_hash_and_the_unknown_names(bare_cli: Cli) -> None:
    ended = bare_cli("config", "--changed", "--json", BILLING_BATCHSIZE="11")
    found = ended.json
    assert (len(found["hash"]), found["settings"], found["differences"]) == (16, [], [])
    assert found["unknown"] == [
        "BILLING_BATCHSIZE is no setting and changes nothing: did you mean BILLING_BATCH_SIZE?"
    ]


@pytest.mark.parametrize("command", [("config",), ("balance", "ann"), ("stats",)])
def test_every_command_that_reads_settings_warns_of_an_unknown_name(
    ledger_cli: Cli, command: tuple[str, ...]
) -> None:
    ended = ledger_cli(*command, BILLING_BATCHSIZE="11")
    assert "did you mean BILLING_BATCH_SIZE?" in ended.err
    assert "BATCHSIZE" not in ended.out
    assert "is no setting" not in ledger_cli(*command).err


@contextmanager
def running(url: str, **settings: object) -> Iterator[Engine]:
    """Have the row of a worker with these changed settings."""
    engine, now = ledger_engine(url), utc_now()
    for name, seen_at in (("h:1", now), ("h:2", now - timedelta(hours=1))):
        worker = KnownWorker(
            name=name,
            kind=WorkerKind.WORKER,
            host="h",
            pid=1,
            version="0.4.0",
            settings_hash="x",
            started_at=now,
            seen_at=seen_at,
            settings=settings,
        )
        Workers(engine).write(worker)
    yield engine
    engine.dispose()


def test_comparison_names_the_settings_in_which_a_living_worker_differs(
    ledger_cli: Cli, sqlite_url: str
) -> None:
    with running(sqlite_url, BILLING_BATCH_SIZE=200, BILLING_METRICS_PORT=9100):
        ended = ledger_cli("config", "--compare", BILLING_TRIES="4")
        rows = [row for row in ended.rows[1:] if row[0] != "BILLING_DATABASE_URL"]
        assert rows == [
            ["BILLING_BATCH_SIZE", "500", "200", "h:1", "worker"],
            ["BILLING_TRIES", "4", "3", "h:1", "worker"],
        ]
        assert ended.code == 1


def test_comparison_with_nobody_says_so(ledger_cli: Cli) -> None:
    ended = ledger_cli("config", "--compare")
    assert (ended.code, ended.lines) == (0, ["compared with 0 processes that run: none differs"])
