"""``migrate``, on both databases."""

from tests.cli.console import Cli
from tests.support.provision import PostgresServer
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


def test_ledger_becomes_distributed_and_asks_for_the_setting(bare_cli: Cli, postgres_url: str) -> None:
    first = bare_cli("migrate", "--distribute", "--database-url", postgres_url)
    assert first.out.endswith("the tables can be distributed by slot\n")
    assert bare_cli("migrate", "--json", "--database-url", postgres_url).json["form"] == "distributed"
    refused = bare_cli("stats", "--database-url", postgres_url)
    assert refused.code == 2
    assert "BILLING_LEDGER_FORM" in refused.err
    bare_cli.environment["BILLING_LEDGER_FORM"] = "distributed"
    assert bare_cli("audit", "--database-url", postgres_url).code == 0


def test_sqlite_is_not_distributed(bare_cli: Cli) -> None:
    refused = bare_cli("migrate", "--distribute", "--database-url", "sqlite:///ledger.sqlite3")
    assert refused.code == 2
    assert "PostgreSQL" in refused.err
