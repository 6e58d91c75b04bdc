"""``run --drain``, on RabbitMQ and on the embedded broker."""

import json
from pathlib import Path

from tests.cli.console import Cli
from tests.support.rabbit_client import RabbitClient
from worker import __version__


def test_drain_applies_what_waits_and_ends(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish({"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"})
    rabbit.publish({"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 400})
    assert cli("run", "--drain").code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 9_600


def test_drain_is_for_one_worker(cli: Cli) -> None:
    ended = cli("run", "--drain", "--workers", "2")
    assert ended.code == 2
    assert ended.error == "--drain runs one worker; leave --workers out"


def test_worker_on_a_wrong_schema_ends_with_2(bare_cli: Cli, broker_url: str) -> None:
    ended = bare_cli("run", "--drain", BILLING_BROKER_URL=broker_url, BILLING_DATABASE_URL="sqlite:///x.db")
    assert ended.code == 2
    assert "billing-worker migrate" in ended.err


def test_embedded_broker_serves_all_commands(ledger_cli: Cli, tmp_path: Path) -> None:
    # kombu keeps an engine for each URL: a relative path would name the file of another test.
    ledger_cli.environment["BILLING_BROKER_URL"] = f"sqla+sqlite:///{tmp_path / 'broker.sqlite3'}"
    assert "policy to set" not in ledger_cli("topology", "declare").out
    assert ledger_cli("topology", "verify").code == 0
    assert ledger_cli("check").code == 0
    opened = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
    lines = json.dumps(opened).encode() + b'\n{"type": "usage.deduct"}\n'
    assert ledger_cli("publish", "-", "--unchecked", stdin=lines).code == 0
    assert ledger_cli("run", "--drain").code == 0
    assert ledger_cli("dead-letters", "drain").code == 0
    assert ledger_cli("balance", "ann", "--json").json["balance"] == 10_000
    (reply,) = ledger_cli("replies", "--take", "--limit", "1").lines
    assert json.loads(reply)["code"] == "account_opened"
    (line,) = ledger_cli("dead-letters", "list", "--json").json["deadLetters"]
    dead_letter = ledger_cli("dead-letters", "show", str(line["number"]), "--json").json
    assert (line["reason"], dead_letter["body"]) == ("missing_field", '{"type": "usage.deduct"}')
    assert (dead_letter["queue"], dead_letter["workerVersion"]) == ("billing.usage", __version__)
    replayed = ledger_cli("dead-letters", "replay", "1", "--reason", "again", "--patience", "0")
    assert (replayed.code, "is a worker running?" in replayed.out + replayed.err) == (1, True)
    assert ledger_cli("run", "--drain").code == 0
    assert ledger_cli("dead-letters", "drain").code == 0
    (dead_letter,) = ledger_cli("dead-letters", "list", "--json").json["deadLetters"]
    assert dead_letter["attempts"] == 2
