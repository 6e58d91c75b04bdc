"""``migrate``, on both databases."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.cli.console import Cli
from tests.support.fake_citus import install_fake_citus
from tests.support.provision import PostgresServer
from worker.ledger.engine import ledger_engine
from worker.ledger.revisions import newest_revision


def test_second_migration_changes_nothing(bare_cli: Cli) -> None:
    first = bare_cli("migrate", "--database-url", "sqlite:///ledger.sqlite3")
    assert (first.code, first.out) == (0, f"schema at {newest_revision()}, was empty\n")
    second = bare_cli("migrate", "--database-url", "sqlite:///ledger.sqlite3")
    assert (second.code, second.out) == (0, f"schema at {newest_revision()} already\n")
    assert bare_cli("stats", "--database-url", "sqlite:///ledger.sqlite3").code == 0


def test_migrating_works_on_postgresql_too(bare_cli: Cli, postgres: PostgresServer) -> None:
    postgres.databases.create_database("test_cli_migrate")
    try:
        url = postgres.address.url("test_cli_migrate")
        assert bare_cli("migrate", "--database-url", url).out.endswith("was empty\n")
        assert bare_cli("migrate", "--database-url", url).out.endswith("already\n")
    finally:
        postgres.databases.drop_database("test_cli_migrate")


@pytest.fixture
def coordinator_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated database that looks like a coordinator of Citus."""
    name = f"citus_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    install_fake_citus(engine)
    engine.dispose()
    yield postgres.address.url(name)
    postgres.databases.drop_database(name)


def test_distribution_is_printed_and_changes_nothing(bare_cli: Cli, coordinator_url: str) -> None:
    printed = bare_cli("migrate", "--distribute", "--database-url", coordinator_url)
    assert printed.code == 0
    assert printed.lines[:3] == [
        "SET citus.enable_unsafe_triggers = on;",
        "SET lock_timeout = 0;",
        "SET statement_timeout = 0;",
    ]
    assert "nothing was changed; --yes runs these" in printed.err
    again = bare_cli("migrate", "--distribute", "--json", "--database-url", coordinator_url).json
    assert (again["done"], again["refusals"]) == (False, [])
    assert again["statements"] == printed.out.splitlines()


def test_ledger_becomes_distributed_and_asks_for_the_setting(bare_cli: Cli, coordinator_url: str) -> None:
    first = bare_cli("migrate", "--distribute", "--yes", "--database-url", coordinator_url)
    assert first.out.startswith("the ledger is distributed by slot")
    again = bare_cli("migrate", "--distribute", "--json", "--database-url", coordinator_url).json
    assert (again["done"], again["statements"]) == (True, [])
    assert bare_cli("migrate", "--json", "--database-url", coordinator_url).json["form"] == "distributed"
    refused = bare_cli("stats", "--database-url", coordinator_url)
    assert refused.code == 2
    assert "BILLING_LEDGER_FORM" in refused.err
    bare_cli.environment["BILLING_LEDGER_FORM"] = "distributed"
    assert bare_cli("stats", "--database-url", coordinator_url).code == 0


def test_server_without_citus_is_refused(bare_cli: Cli, postgres_url: str) -> None:
    for arguments in ((), ("--yes",), ("--json",)):
        refused = bare_cli("migrate", "--distribute", *arguments, "--database-url", postgres_url)
        assert refused.code == 2
        assert "the ledger can't be distributed here: the server has no Citus" in refused.err
    assert bare_cli("migrate", "--json", "--database-url", postgres_url).json["form"] == "whole"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--yes",), "--yes and --yes-move go with --distribute"),
        (("--yes-move",), "--yes and --yes-move go with --distribute"),
        (("--distribute", "--roles"), "make the roles first"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    bare_cli: Cli, arguments: tuple[str, ...], text: str
) -> None:
    refused = bare_cli("migrate", *arguments, "--database-url", "sqlite:///ledger.sqlite3")
    assert refused.code == 2
    assert text in refused.err


def test_sqlite_is_not_distributed(bare_cli: Cli) -> None:
    refused = bare_cli("migrate", "--distribute", "--database-url", "sqlite:///ledger.sqlite3")
    assert refused.code == 2
    assert "PostgreSQL" in refused.err
