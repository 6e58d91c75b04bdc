"""``account export``, ``account erase`` and the purges: dry by default, exit codes to trust."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.cli.console import Cli, FilledLedger
from tests.deadletters.parts import World, deduct


@pytest.fixture
def privacy_cli(bare_cli: Cli, postgres_url: str) -> Cli:
    """The command line on a PostgreSQL ledger, as the owner of its tables."""
    bare_cli.environment["BILLING_DATABASE_URL"] = postgres_url
    return bare_cli


@pytest.fixture
def ada(postgres_engine: Engine) -> str:
    """A user with an account."""
    FilledLedger(postgres_engine).open("ada-lovelace")
    return "ada-lovelace"


def test_account_is_exported_to_a_new_file(privacy_cli: Cli, ada: str, tmp_path: Path) -> None:
    done = privacy_cli("account", "export", ada, "--output", "ada.json", "--actor", "eve")
    assert (done.code, done.err) == (0, "")
    document = json.loads((tmp_path / "ada.json").read_text())
    assert document["tables"]["accounts"][0]["user_id"] == ada
    assert privacy_cli("account", "export", ada).json["user"] == ada
    assert "is there already" in privacy_cli("account", "export", ada, "--output", "ada.json").error
    log = privacy_cli("activity", "--action", "export-account", "--json").json["entries"]
    assert [(entry["actor"], entry["subject"]) for entry in log][-1] == ("eve", ada)


def test_user_of_nothing_makes_no_file_and_exits_with_4(privacy_cli: Cli, tmp_path: Path) -> None:
    refused = privacy_cli("account", "export", "nobody", "--output", "nobody.json")
    assert (refused.code, (tmp_path / "nobody.json").exists()) == (4, False)


def test_erasure_is_dry_until_it_is_meant(privacy_cli: Cli, ada: str) -> None:
    words = ("account", "erase", ada, "--reason", "request 4711", "--actor", "eve", "--force")
    tried = privacy_cli(*words)
    assert tried.code == 0
    assert ["rows of operations", "1"] in tried.rows
    assert tried.lines[-1] == "a dry run: nothing changed; give --yes to do it"
    assert privacy_cli("account", "export", ada).code == 0
    done = privacy_cli(*words, "--yes")
    assert done.code == 0
    assert done.lines[-1].startswith("erased: the account is erased-")
    assert privacy_cli("account", "export", ada).code == 4
    (entry,) = privacy_cli("activity", "--action", "erase-account", "--json").json["entries"]
    assert (entry["actor"], entry["reason"]) == ("eve", "request 4711")
    assert ada not in json.dumps(entry)
    assert privacy_cli(*words, "--yes", "--json").json["rows"] == {}


def test_account_that_goes_on_is_refused_with_the_way_out(privacy_cli: Cli, ada: str) -> None:
    refused = privacy_cli("account", "erase", ada, "--reason", "request", "--actor", "eve")
    assert refused.code == 1
    assert "a balance of 10,000, a subscription that goes on: end it first" in refused.error
    assert "--force" in refused.error


def test_ledger_on_sqlite_is_refused(ledger_cli: Cli, paying_ann: None) -> None:
    refused = ledger_cli("account", "erase", "ann", "--reason", "request", "--actor", "eve", "--force")
    assert (refused.code, "only a ledger on PostgreSQL" in refused.error) == (2, True)


def test_dead_letters_are_purged_after_an_export(
    privacy_cli: Cli, postgres_engine: Engine, tmp_path: Path
) -> None:
    world = World(postgres_engine)
    numbers = world.park_failed(deduct("r-1"), deduct("r-2"))
    world.service.discard(numbers[:1], "not ours", "ann")
    words = ("dead-letters", "purge", "--older-than", "2100-01-01", "--actor", "eve")
    tried = privacy_cli(*words)
    assert tried.lines == ["1 dead letters would go; nothing changed: give --export FILE and --yes to do it"]
    assert "name a new file with --export" in privacy_cli(*words, "--yes").error
    done = privacy_cli(*words, "--export", "old.jsonl", "--yes", "--json").json
    assert (done["done"], done["exported"], done["purged"]) == (True, 1, 1)
    assert len((tmp_path / "old.jsonl").read_text().splitlines()) == 1
    assert privacy_cli(*words, "--json").json == {"done": False, "found": 0}


def test_activity_is_purged_after_an_export(privacy_cli: Cli, ada: str, tmp_path: Path) -> None:
    privacy_cli("account", "export", ada)
    words = ("activity", "purge", "--older-than", "2100-01-01", "--actor", "eve")
    done = privacy_cli(*words, "--export", "old.jsonl", "--yes")
    assert done.lines[-1] == "purged 1 entries"
    assert json.loads((tmp_path / "old.jsonl").read_text())["action"] == "export-account"


def test_age_must_be_said(privacy_cli: Cli) -> None:
    refused = privacy_cli("activity", "purge", "--actor", "eve")
    assert (refused.code, "--older-than" in refused.err) == (2, True)
