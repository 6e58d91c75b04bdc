"""``check`` with a replica: its age, and what is no replica."""

import re

import pytest

from tests.cli.console import Cli
from tests.support.apply_commands import applied
from tests.support.query_samples import given, opened
from tests.support.replication import ReplicatedLedger
from worker.catalog import load_catalog


@pytest.fixture
def replica_cli(bare_cli: Cli, replicated_ledger: ReplicatedLedger) -> Cli:
    """The command line on a ledger with a replica, without a broker."""
    bare_cli.environment["BILLING_DATABASE_URL"] = replicated_ledger.primary_url
    bare_cli.environment["BILLING_READ_DATABASE_URL"] = replicated_ledger.replica_url
    return bare_cli


def replica_line(cli: Cli, **variables: str) -> str:
    """Return the line of the replica under further variables: its state, and its text without the address."""
    cli.environment |= variables
    (found,) = [line for line in cli("check").lines if " replica " in line]
    state, _, rest = found.partition("replica ")
    return f"{state.strip()} {rest.partition(': ')[2]}"


def test_replica_that_keeps_up_is_well(replica_cli: Cli) -> None:
    ended = replica_cli("check")
    (line,) = [line for line in ended.lines if " replica " in line]
    assert line.startswith("ok   replica postgresql+psycopg2://")
    assert line.endswith(": less than 1 s behind")
    assert ":***@" in line


def test_replica_that_is_too_old_is_noted_with_the_way_out(
    replica_cli: Cli, replicated_ledger: ReplicatedLedger
) -> None:
    replicated_ledger.standby.pause_replay()
    applied(replicated_ledger.primary, load_catalog(), opened("ann", "none"), given("ann", 5))
    said, _, way_out = replica_line(replica_cli, BILLING_READ_MAX_LAG_S="0.1").partition(": ")
    assert re.fullmatch(r"note \d+ s behind, more than 0\.1 s", said)
    assert way_out == "queries read the primary; see what holds it up, or raise BILLING_READ_MAX_LAG_S"
    assert replica_line(replica_cli, BILLING_READ_MAX_LAG_S="3600").startswith("ok ")
    replicated_ledger.standby.resume_replay()
    replicated_ledger.standby.catch_up()
    assert replica_line(replica_cli) == "ok less than 1 s behind"


def test_database_that_is_no_replica_is_refused_with_the_way_out(
    replica_cli: Cli, replicated_ledger: ReplicatedLedger, postgres_url: str
) -> None:
    primary, away = replicated_ledger.primary_url, "postgresql://billing@127.0.0.1:1/ledger"
    said = {
        url: replica_line(replica_cli, BILLING_READ_DATABASE_URL=url)
        for url in (primary, postgres_url, "sqlite:///other.sqlite3", away)
    }
    assert said[primary] == "bad BILLING_READ_DATABASE_URL names a primary, not a replica; unset it"
    assert said[postgres_url] == said[primary]
    assert said["sqlite:///other.sqlite3"].endswith("is for a replica of PostgreSQL; unset it")
    assert said[away].startswith("bad ")
    assert said[away].endswith("; start it, or set its URL")


def test_replica_of_another_server_is_refused(replica_cli: Cli, postgres_url: str) -> None:
    line = replica_line(replica_cli, BILLING_DATABASE_URL=postgres_url)
    assert line == "bad BILLING_READ_DATABASE_URL names a replica of another server; set this one's"


def test_age_is_unknown_while_the_primary_is_away(replica_cli: Cli) -> None:
    line = replica_line(replica_cli, BILLING_DATABASE_URL="postgresql://billing@127.0.0.1:1/ledger")
    assert line == "note unknown: see the line of the database"


def test_installation_without_a_replica_has_no_line(ledger_cli: Cli) -> None:
    assert not [line for line in ledger_cli("check").lines if "replica" in line]
