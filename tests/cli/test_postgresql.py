"""Commands that read the ledger, on PostgreSQL."""

from tests.cli.console import Cli, FilledLedger
from worker.ledger.engine import ledger_engine


def test_command_line_works_on_postgresql_as_well(bare_cli: Cli, postgres_url: str) -> None:
    engine = ledger_engine(postgres_url)
    FilledLedger(engine).open("eve")
    engine.dispose()
    bare_cli.environment["BILLING_DATABASE_URL"] = postgres_url
    for command in (
        ("balance", "eve"),
        ("lots", "eve", "--all"),
        ("holds", "eve", "--all"),
        ("expiring", "eve"),
        ("expiring",),
        ("history", "eve"),
        ("explain", "open-eve"),
        ("usage", "eve"),
        ("stats",),
        ("audit",),
        ("audit", "--jobs", "3"),
    ):
        assert bare_cli(*command).code == 0
        assert bare_cli(*command, "--json").code == 0
    for form in ("table", "csv", "json"):
        assert "open-eve" in bare_cli("statement", "eve", "--format", form).out
    assert bare_cli("can-afford", "eve", "10000").code == 0
