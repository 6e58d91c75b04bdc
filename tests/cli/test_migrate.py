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
